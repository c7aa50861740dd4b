/* Memory that is given back all at once: what is read from a file lives as long as the file's arena. */
#ifndef TV_ARENA_H
#define TV_ARENA_H

#include <stddef.h>

typedef struct tv_arena_block tv_arena_block;

typedef struct {
    tv_arena_block *blocks;
    size_t used, room; /* of the newest block, in bytes */
} tv_arena;

/* `count` zeroed items of `size` bytes, aligned for any type; NULL when there is no memory or it overflows. */
void *tv_arena_take(tv_arena *arena, size_t count, size_t size);

void tv_arena_release(tv_arena *arena);

#endif

#include "base/arena.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_BYTES ((size_t)64 << 10)

typedef union {
    void *pointer;
    double real;
    uint64_t integer;
    long double longest;
} widest;

struct tv_arena_block {
    tv_arena_block *next;
    widest memory[];
};

void *tv_arena_take(tv_arena *arena, size_t count, size_t size)
{
    if (size != 0 && count > (SIZE_MAX / 2 - BLOCK_BYTES) / size)
        return NULL;
    size_t bytes = (count * size + sizeof(widest) - 1) / sizeof(widest) * sizeof(widest);
    if (arena->blocks == NULL || bytes > arena->room - arena->used) {
        size_t room = bytes > BLOCK_BYTES ? bytes : BLOCK_BYTES;
        tv_arena_block *block = malloc(sizeof *block + room);
        if (block == NULL)
            return NULL;
        block->next = arena->blocks;
        arena->blocks = block;
        arena->room = room;
        arena->used = 0;
    }
    void *taken = (char *)arena->blocks->memory + arena->used;
    arena->used += bytes;
    return memset(taken, 0, bytes);
}

void tv_arena_release(tv_arena *arena)
{
    while (arena->blocks != NULL) {
        tv_arena_block *next = arena->blocks->next;
        free(arena->blocks);
        arena->blocks = next;
    }
    arena->used = arena->room = 0;
}

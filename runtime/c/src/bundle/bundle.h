/* A bundle's folder, read safely: only the files that the manifest lists, only as it describes them. */
#ifndef TV_BUNDLE_H
#define TV_BUNDLE_H

#include "bundle/manifest.h"

/* The most that is read of one file of each kind, whatever the manifest says. */
#define TV_GRAPH_LIMIT_BYTES ((int64_t)2 << 30) /* protobuf's own limit */
#define TV_TEXT_LIMIT_BYTES ((int64_t)64 << 20) /* tokenizers, golden pictures */

typedef struct {
    int root; /* the folder's descriptor */
    tv_arena arena;
    char *text; /* of manifest.json, into which the manifest points */
    tv_manifest manifest;
} tv_bundle;

/*
 * Open the folder at `path`. Names and sizes are checked on opening, a file's digest whenever it is read.
 * TV_USAGE when it is not a bundle's folder, TV_INTEGRITY when the manifest is wrong or the files are not exactly
 * those it lists (missing, of another size, undeclared, or a link); TV_FAILED. Close it in any case.
 */
int tv_bundle_open(tv_bundle *bundle, const char *path);

void tv_bundle_close(tv_bundle *bundle);

/* The bytes of a listed file, for the caller to free; one zero byte follows. TV_INTEGRITY, TV_FAILED. */
int tv_bundle_read(const tv_bundle *bundle, tv_text name, int64_t limit, char **data, size_t *bytes);

/* Check the digest of every file, in pieces; stops at the first that differs. TV_INTEGRITY, TV_FAILED. */
int tv_bundle_verify(const tv_bundle *bundle);

#endif

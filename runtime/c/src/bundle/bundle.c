#define _POSIX_C_SOURCE 200809L
#include "bundle/bundle.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "bundle/folder.h"
#include "bundle/sha256.h"

#define PIECE_BYTES ((size_t)1 << 16)
#define SYSTEM_HINT "look at the folder and its permissions"

/* read(2) until `bytes` are there or the file ends; the count of them, -1 on an error. */
static int64_t read_up_to(int descriptor, char *data, size_t bytes)
{
    size_t done = 0;
    while (done < bytes) {
        ssize_t count = read(descriptor, data + done, bytes - done);
        if (count < 0 && errno != EINTR)
            return -1;
        if (count == 0)
            break;
        done += count > 0 ? (size_t)count : 0;
    }
    return (int64_t)done;
}

static int not_a_bundle(const char *path, const char *problem)
{
    return tv_fail(TV_USAGE, "give the folder that `tv-export build` wrote", "%s %s", path, problem);
}

static int open_root(tv_bundle *bundle, const char *path)
{
    bundle->root = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (bundle->root >= 0)
        return TV_OK;
    if (errno == ENOENT)
        return not_a_bundle(path, "does not exist");
    if (errno == ENOTDIR)
        return not_a_bundle(path, "is a file, not a bundle's folder");
    return tv_fail(TV_FAILED, SYSTEM_HINT, "%s: %s", path, strerror(errno));
}

static int read_manifest(tv_bundle *bundle, const char *path)
{
    struct stat status;
    if (fstatat(bundle->root, TV_MANIFEST_NAME, &status, AT_SYMLINK_NOFOLLOW) != 0 ||
        (!S_ISREG(status.st_mode) && !S_ISLNK(status.st_mode)))
        return tv_fail(TV_USAGE, "make one by `tv-export build`", "%s is not a bundle: it has no %s", path,
                       TV_MANIFEST_NAME);
    if (S_ISLNK(status.st_mode))
        return tv_fail(TV_INTEGRITY, "a bundle has plain files only", "'%s': a link or not a plain file",
                       TV_MANIFEST_NAME);
    if (status.st_size > TV_MANIFEST_LIMIT_BYTES)
        return tv_fail(TV_INTEGRITY, TV_HINT_AGAIN, "%s: larger than %d bytes", TV_MANIFEST_NAME,
                       (int)TV_MANIFEST_LIMIT_BYTES);
    size_t bytes = (size_t)status.st_size;
    bundle->text = malloc(bytes + 1);
    if (bundle->text == NULL)
        return tv_fail_memory();
    int descriptor = openat(bundle->root, TV_MANIFEST_NAME, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    int64_t found = descriptor < 0 ? -1 : read_up_to(descriptor, bundle->text, bytes);
    if (descriptor >= 0)
        close(descriptor);
    if (found < 0)
        return tv_fail(TV_FAILED, SYSTEM_HINT, "%s: %s", TV_MANIFEST_NAME, strerror(errno));
    return tv_manifest_parse(&bundle->arena, bundle->text, (size_t)found, &bundle->manifest);
}

int tv_bundle_open(tv_bundle *bundle, const char *path)
{
    memset(bundle, 0, sizeof *bundle);
    int status = open_root(bundle, path);
    if (status == TV_OK)
        status = read_manifest(bundle, path);
    return status == TV_OK ? tv_folder_check(bundle->root, &bundle->manifest) : status;
}

void tv_bundle_close(tv_bundle *bundle)
{
    if (bundle->root >= 0)
        close(bundle->root);
    bundle->root = -1;
    tv_arena_release(&bundle->arena);
    free(bundle->text);
    bundle->text = NULL;
}

static int check_digest(tv_sha256 *hash, tv_text name, const tv_file_spec *spec)
{
    char digits[65];
    tv_sha256_end(hash, digits);
    if (tv_text_is(spec->sha256, digits))
        return TV_OK;
    return tv_fail(TV_INTEGRITY, TV_HINT_AGAIN, "%.*s: its content is not what the manifest promises (SHA-256)",
                   (int)name.bytes, name.data);
}

static int of_another_size(tv_text name, const tv_file_spec *spec)
{
    return tv_fail(TV_INTEGRITY, TV_HINT_AGAIN, "%.*s: not the %lld bytes that the manifest says", (int)name.bytes,
                   name.data, (long long)spec->bytes);
}

/* Into `data`, which has room for the listed bytes and one more, so that a longer file is seen. */
static int read_exactly(const tv_bundle *bundle, tv_text name, const tv_file_spec *spec, char *data)
{
    int descriptor;
    int status = tv_folder_open_file(bundle->root, name, &descriptor);
    if (status != TV_OK)
        return status;
    tv_sha256 hash;
    tv_sha256_begin(&hash);
    int64_t done = 0, count;
    do { /* hashed while each piece is still in the processor's cache */
        int64_t left = spec->bytes + 1 - done;
        count = read_up_to(descriptor, data + done, left < (int64_t)PIECE_BYTES ? (size_t)left : PIECE_BYTES);
        if (count > 0)
            tv_sha256_add(&hash, data + done, (size_t)count);
        done += count > 0 ? count : 0;
    } while (count > 0 && done <= spec->bytes);
    int problem = errno;
    close(descriptor);
    if (count < 0)
        return tv_fail(TV_FAILED, SYSTEM_HINT, "%.*s: %s", (int)name.bytes, name.data, strerror(problem));
    return done == spec->bytes ? check_digest(&hash, name, spec) : of_another_size(name, spec);
}

int tv_bundle_read(const tv_bundle *bundle, tv_text name, int64_t limit, char **data, size_t *bytes)
{
    const tv_file_spec *spec = tv_manifest_file(&bundle->manifest, name);
    *data = NULL;
    *bytes = 0;
    if (spec == NULL)
        return tv_fail(TV_INTEGRITY, TV_HINT_EXPORT, "%.*s: not among manifest.files", (int)name.bytes, name.data);
    if (spec->bytes > limit || (uint64_t)spec->bytes >= SIZE_MAX)
        return tv_fail(TV_INTEGRITY, TV_HINT_EXPORT, "%.*s: larger than %lld bytes", (int)name.bytes, name.data,
                       (long long)limit);
    char *room = malloc((size_t)spec->bytes + 1);
    if (room == NULL)
        return tv_fail_memory();
    int status = read_exactly(bundle, name, spec, room);
    if (status != TV_OK) {
        free(room);
        return status;
    }
    room[spec->bytes] = '\0';
    *data = room;
    *bytes = (size_t)spec->bytes;
    return TV_OK;
}

static int verify_file(const tv_bundle *bundle, tv_text name, const tv_file_spec *spec, char *piece)
{
    int descriptor;
    int status = tv_folder_open_file(bundle->root, name, &descriptor);
    if (status != TV_OK)
        return status;
    tv_sha256 hash;
    tv_sha256_begin(&hash);
    int64_t done = 0, count;
    while (done <= spec->bytes && (count = read_up_to(descriptor, piece, PIECE_BYTES)) > 0) {
        tv_sha256_add(&hash, piece, (size_t)count);
        done += count;
    }
    close(descriptor);
    return done == spec->bytes ? check_digest(&hash, name, spec) : of_another_size(name, spec);
}

int tv_bundle_verify(const tv_bundle *bundle)
{
    char *piece = malloc(PIECE_BYTES);
    int status = piece == NULL ? tv_fail_memory() : TV_OK;
    for (size_t index = 0; index < bundle->manifest.files.count && status == TV_OK; index++)
        status = verify_file(bundle, bundle->manifest.listed[index].path, bundle->manifest.listed[index].spec, piece);
    free(piece);
    return status;
}

#define _POSIX_C_SOURCE 200809L
#include "bundle/folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"

#define ENTRY_LIMIT 100000
#define DEPTH_LIMIT 10 /* a listed path has no more folders */
#define PATH_BYTES 1024 /* a listed path is shorter */
#define SIGNATURE_NAME "signature.json" /* Python checks it; this library does not */
#define SYSTEM_HINT "look at the folder and its permissions"

typedef struct {
    const tv_manifest *manifest;
    bool *found; /* for each of manifest->listed */
    size_t entries;
    char path[PATH_BYTES];
} walk;

static int walk_folder(walk *self, int folder, size_t length, int depth);

static tv_text shown_path(const walk *self)
{
    return tv_text_of(self->path);
}

static int refuse_path(const walk *self, const char *problem, const char *hint)
{
    char quoted[TV_SHOWN_BYTES];
    return tv_fail(TV_INTEGRITY, hint, "%s: %s", tv_quoted(shown_path(self), false, quoted), problem);
}

static int check_listed(walk *self, int64_t bytes)
{
    tv_listed_file key = {shown_path(self), NULL};
    const tv_listed_file *files = self->manifest->listed;
    const tv_listed_file *file =
        bsearch(&key, files, self->manifest->files.count, sizeof key, tv_text_compare);
    if (file == NULL && (strcmp(self->path, TV_MANIFEST_NAME) == 0 || strcmp(self->path, SIGNATURE_NAME) == 0))
        return TV_OK;
    if (file == NULL)
        return refuse_path(self, "not in the manifest", "remove it: a bundle holds only what it lists");
    self->found[file - files] = true;
    if (file->spec->bytes == bytes)
        return TV_OK;
    return tv_fail(TV_INTEGRITY, TV_HINT_AGAIN, "%s: %lld bytes, the manifest says %lld", self->path,
                   (long long)bytes, (long long)file->spec->bytes);
}

/* Files that macOS and Windows put into any folder that is looked at. */
static bool is_litter(const char *name)
{
    return strcmp(name, ".DS_Store") == 0 || strcmp(name, "Thumbs.db") == 0 || strcmp(name, "desktop.ini") == 0 ||
           strncmp(name, "._", 2) == 0;
}

static int walk_entry(walk *self, int folder, const char *name, size_t length, int depth)
{
    struct stat status;
    int written = snprintf(self->path + length, sizeof self->path - length, "%s", name);
    if (written < 0 || (size_t)written >= sizeof self->path - length - 1)
        return refuse_path(self, "a path too long to be in the manifest", TV_HINT_AGAIN);
    if (++self->entries > ENTRY_LIMIT)
        return tv_fail(TV_INTEGRITY, TV_HINT_AGAIN, "more than %d files", ENTRY_LIMIT);
    if (fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW) != 0)
        return tv_fail(TV_FAILED, SYSTEM_HINT, "%s: %s", self->path, strerror(errno));
    if (S_ISREG(status.st_mode) && is_litter(name))
        return TV_OK;
    if (S_ISREG(status.st_mode))
        return check_listed(self, (int64_t)status.st_size);
    if (!S_ISDIR(status.st_mode))
        return refuse_path(self, "a link or not a plain file", "a bundle has plain files only");
    if (depth == DEPTH_LIMIT)
        return refuse_path(self, "folders nested deeper than a manifest can list", TV_HINT_AGAIN);
    int inner = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (inner < 0)
        return tv_fail(TV_FAILED, SYSTEM_HINT, "%s: %s", self->path, strerror(errno));
    length += (size_t)written;
    strcpy(self->path + length, "/");
    return walk_folder(self, inner, length + 1, depth + 1);
}

/* Takes over the descriptor `folder`. */
static int walk_folder(walk *self, int folder, size_t length, int depth)
{
    DIR *entries = fdopendir(folder);
    if (entries == NULL) {
        close(folder);
        return tv_fail(TV_FAILED, SYSTEM_HINT, "%s: %s", self->path, strerror(errno));
    }
    int status = TV_OK;
    const struct dirent *entry;
    while (status == TV_OK && (entry = readdir(entries)) != NULL)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            status = walk_entry(self, folder, entry->d_name, length, depth);
    closedir(entries);
    return status;
}

static int check_missing(const walk *self)
{
    for (size_t index = 0; index < self->manifest->files.count; index++) {
        tv_text path = self->manifest->listed[index].path;
        if (!self->found[index])
            return tv_fail(TV_INTEGRITY, TV_HINT_AGAIN, "%.*s: missing from the bundle", (int)path.bytes, path.data);
    }
    return TV_OK;
}

int tv_folder_check(int root, const tv_manifest *manifest)
{
    walk self = {manifest, NULL, 0, ""};
    int folder = openat(root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0)
        return tv_fail(TV_FAILED, SYSTEM_HINT, "%s", strerror(errno));
    self.found = calloc(manifest->files.count + 1, sizeof *self.found);
    if (self.found == NULL) {
        close(folder);
        return tv_fail_memory();
    }
    int status = walk_folder(&self, folder, 0, 0);
    if (status == TV_OK)
        status = check_missing(&self);
    free(self.found);
    return status;
}

static int changed(tv_text name)
{
    int problem = errno;
    const char *reason = strerror(problem);
    if (problem == ELOOP || problem == ENOENT || problem == ENOTDIR)
        return tv_fail(TV_INTEGRITY, TV_HINT_AGAIN, "%.*s: changed while it was in use (%s)", (int)name.bytes,
                       name.data, reason);
    return tv_fail(TV_FAILED, SYSTEM_HINT, "%.*s: %s", (int)name.bytes, name.data, reason);
}

int tv_folder_open_file(int root, tv_text name, int *descriptor)
{
    int folder = root;
    size_t start = 0;
    for (size_t place = 0; place <= name.bytes; place++) {
        char part[PATH_BYTES];
        if (place < name.bytes && name.data[place] != '/')
            continue;
        bool last = place == name.bytes;
        snprintf(part, sizeof part, "%.*s", (int)(place - start), name.data + start);
        /* O_NONBLOCK: a pipe put there since the folder was checked is not waited for */
        int flags = O_RDONLY | O_NOFOLLOW | O_CLOEXEC | (last ? O_NONBLOCK : O_DIRECTORY);
        int next = openat(folder, part, flags);
        int problem = errno;
        if (folder != root)
            close(folder);
        errno = problem;
        if (next < 0)
            return changed(name);
        folder = next;
        start = place + 1;
    }
    *descriptor = folder;
    return TV_OK;
}

/* The files below a bundle's folder, without following any link. */
#ifndef TV_FOLDER_H
#define TV_FOLDER_H

#include "bundle/manifest.h"

/* TV_INTEGRITY unless the files are exactly those that the manifest lists, each of its size; TV_FAILED. */
int tv_folder_check(int root, const tv_manifest *manifest);

/* Open a listed file; no part of its path may be a link. TV_INTEGRITY, TV_FAILED. */
int tv_folder_open_file(int root, tv_text name, int *descriptor);

#endif

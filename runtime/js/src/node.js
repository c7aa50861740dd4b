/** A bundle in a folder, for Node. */
import { lstat, readFile } from "node:fs/promises";
import { join } from "node:path";

import { IntegrityError } from "./errors.js";

const PATH = /^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}(\/[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}){0,9}$/;

/** Reads a file of the bundle in `folder` as Uint8Array; links and paths that leave it are refused. */
export function filesOfFolder(folder) {
  return async (name) => {
    if (!PATH.test(name)) throw new IntegrityError(`${JSON.stringify(name)}: not a path of a bundle`, "export it again");
    const path = join(folder, name);
    if (!(await lstat(path)).isFile()) throw new IntegrityError(`${name}: a link or not a plain file`, "export it again");
    return new Uint8Array(await readFile(path));
  };
}

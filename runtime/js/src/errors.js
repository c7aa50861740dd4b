/** An error with a hint that says what to do; `exitCode` is that of the Python commands. */
export class TextualVisionError extends Error {
  exitCode = 1;
  constructor(message, hint = "") {
    super(message);
    this.name = new.target.name;
    this.hint = hint;
  }
}

/** What was asked for does not make sense. */
export class UsageError extends TextualVisionError {
  exitCode = 2;
}

/** A file is damaged, or is not what it claims to be, or needs more than this client has. */
export class IntegrityError extends TextualVisionError {
  exitCode = 7;
}

/** One picture from Java, by JNI; draw_jni.c is the other half. On Android the same class loads the same library. */
public final class Draw implements AutoCloseable {
    static {
        System.loadLibrary("textualvisionjni");
    }

    private long model;

    /** Opens the bundle's folder; throws IllegalStateException with the error and its hint. */
    public Draw(String folder) {
        model = open(folder);
    }

    /** Red, green and blue bytes of the picture, row by row. */
    public byte[] generate(String prompt, long seed) {
        return generate(model, prompt, seed);
    }

    public void writePng(String path, byte[] pixels) {
        writePng(model, path, pixels);
    }

    @Override
    public void close() {
        close(model);
        model = 0;
    }

    private static native long open(String folder);

    private static native byte[] generate(long model, String prompt, long seed);

    private static native void writePng(long model, String path, byte[] pixels);

    private static native void close(long model);

    public static void main(String[] arguments) {
        if (arguments.length != 3) {
            System.err.println("error: give a bundle, a prompt and a PNG file");
            System.exit(2);
        }
        try (Draw model = new Draw(arguments[0])) {
            model.writePng(arguments[2], model.generate(arguments[1], 7));
        } catch (IllegalStateException error) {
            System.err.println("error: " + error.getMessage());
            System.exit(1);
        }
    }
}

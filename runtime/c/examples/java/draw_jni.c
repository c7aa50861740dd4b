/* The native half of Draw.java. Build it into libtextualvisionjni.so, with the header that `javac -h` writes. */
#include <stdio.h>
#include <stdlib.h>
#include <textual_vision.h>

#include "Draw.h"

/* Java throws it when the native function returns. */
static void throw_last_error(JNIEnv *env)
{
    char text[2048];
    snprintf(text, sizeof text, "%s\nhint: %s", tv_error(), tv_hint());
    (*env)->ThrowNew(env, (*env)->FindClass(env, "java/lang/IllegalStateException"), text);
}

/* UTF-8 of a Java string, for the caller to free. JNI's own "modified UTF-8" is another for emoji. */
static char *utf8_from_string(JNIEnv *env, jstring string)
{
    jclass type = (*env)->GetObjectClass(env, string);
    jmethodID encode = (*env)->GetMethodID(env, type, "getBytes", "(Ljava/lang/String;)[B");
    jbyteArray bytes = (*env)->CallObjectMethod(env, string, encode, (*env)->NewStringUTF(env, "UTF-8"));
    jsize count = bytes == NULL ? 0 : (*env)->GetArrayLength(env, bytes);
    char *text = calloc((size_t)count + 1, 1);
    if (text != NULL && bytes != NULL)
        (*env)->GetByteArrayRegion(env, bytes, 0, count, (jbyte *)text);
    return text;
}

JNIEXPORT jlong JNICALL Java_Draw_open(JNIEnv *env, jclass type, jstring folder)
{
    (void)type;
    tv_model *model = NULL;
    char *path = utf8_from_string(env, folder);
    if (tv_open(path, NULL, &model) != TV_OK)
        throw_last_error(env);
    free(path);
    return (jlong)(size_t)model;
}

JNIEXPORT jbyteArray JNICALL Java_Draw_generate(JNIEnv *env, jclass type, jlong model, jstring prompt, jlong seed)
{
    (void)type;
    tv_pictures pictures;
    jbyteArray pixels = NULL;
    char *text = utf8_from_string(env, prompt);
    const char *prompts[1] = {text};
    uint64_t seeds[1] = {(uint64_t)seed};
    if (tv_generate((tv_model *)(size_t)model, prompts, 1, seeds, 1, &pictures) == TV_OK) {
        jsize bytes = (jsize)(pictures.height * pictures.width * 3);
        pixels = (*env)->NewByteArray(env, bytes);
        if (pixels != NULL)
            (*env)->SetByteArrayRegion(env, pixels, 0, bytes, (const jbyte *)pictures.pixels);
    } else {
        throw_last_error(env);
    }
    free(text);
    tv_free(&pictures);
    return pixels;
}

JNIEXPORT void JNICALL Java_Draw_writePng(JNIEnv *env, jclass type, jlong model, jstring path, jbyteArray pixels)
{
    (void)type;
    tv_description description;
    tv_describe((const tv_model *)(size_t)model, &description);
    char *file = utf8_from_string(env, path);
    jbyte *bytes = (*env)->GetByteArrayElements(env, pixels, NULL);
    if (bytes == NULL || tv_write_png(file, (const uint8_t *)bytes, description.height, description.width) != TV_OK)
        throw_last_error(env);
    if (bytes != NULL)
        (*env)->ReleaseByteArrayElements(env, pixels, bytes, JNI_ABORT);
    free(file);
}

JNIEXPORT void JNICALL Java_Draw_close(JNIEnv *env, jclass type, jlong model)
{
    (void)env;
    (void)type;
    tv_close((tv_model *)(size_t)model);
}

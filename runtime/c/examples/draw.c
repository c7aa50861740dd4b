/* One picture: cc draw.c -ltextualvision -o draw && ./draw emoji.tv "dog wearing sunglasses" dog.png */
#include <stdio.h>

#include <textual_vision.h>

int main(int count, char **arguments)
{
    if (count != 4) {
        fprintf(stderr, "usage: %s BUNDLE PROMPT FILE.png\n", arguments[0]);
        return TV_USAGE;
    }
    tv_model *model;
    tv_pictures pictures = {0};
    const char *prompt = arguments[2];
    uint64_t seed = 7;

    int status = tv_open(arguments[1], NULL, &model);
    if (status == TV_OK)
        status = tv_generate(model, &prompt, 1, &seed, 1, &pictures);
    if (status == TV_OK)
        status = tv_write_png(arguments[3], pictures.pixels, pictures.height, pictures.width);
    if (status != TV_OK)
        fprintf(stderr, "error: %s\nhint: %s\n", tv_error(), tv_hint());

    tv_free(&pictures);
    tv_close(model);
    return status;
}

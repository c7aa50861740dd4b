// One picture from C++11: c++ draw.cpp -ltextualvision -o draw && ./draw emoji.tv "dog wearing sunglasses" dog.png
#include <textual_vision.h>

#include <cstdint>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

struct Picture {
    std::size_t height, width;
    std::vector<std::uint8_t> pixels;  // height * width * 3, RGB
};

void check(int status) {
    if (status != TV_OK)
        throw std::runtime_error(std::string(tv_error()) + "\nhint: " + tv_hint());
}

class TextToImage {
public:
    explicit TextToImage(const std::string &bundle) {
        tv_model *opened = nullptr;
        check(tv_open(bundle.c_str(), nullptr, &opened));
        model_.reset(opened);
    }

    Picture operator()(const std::string &prompt, std::uint64_t seed) const {
        const char *text = prompt.c_str();
        tv_pictures drawn;
        check(tv_generate(model_.get(), &text, 1, &seed, 1, &drawn));
        std::unique_ptr<tv_pictures, decltype(&tv_free)> owner(&drawn, tv_free);
        return {drawn.height, drawn.width, {drawn.pixels, drawn.pixels + drawn.height * drawn.width * 3}};
    }

private:
    struct Closer {
        void operator()(tv_model *model) const { tv_close(model); }
    };
    std::unique_ptr<tv_model, Closer> model_;
};

}  // namespace

int main(int count, char **arguments) try {
    if (count != 4)
        throw std::runtime_error("give a bundle, a prompt and a PNG file");
    const TextToImage model(arguments[1]);
    const Picture picture = model(arguments[2], 7);
    check(tv_write_png(arguments[3], picture.pixels.data(), picture.height, picture.width));
    return 0;
} catch (const std::exception &error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
}

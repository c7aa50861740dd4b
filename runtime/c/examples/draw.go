// One picture from Go, by cgo: go build draw.go && ./draw emoji.tv "dog wearing sunglasses" dog.png
package main

/*
#cgo LDFLAGS: -ltextualvision
#include <stdlib.h>
#include <textual_vision.h>
*/
import "C"

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"
)

// check turns a status into the thread's last error.
func check(status C.int) error {
	if status == C.TV_OK {
		return nil
	}
	return fmt.Errorf("%s\nhint: %s", C.GoString(C.tv_error()), C.GoString(C.tv_hint()))
}

func draw(bundle, prompt string, seed uint64, path string) error {
	// An error belongs to the thread that met it, and Go moves goroutines between threads.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	folder, text, file := C.CString(bundle), C.CString(prompt), C.CString(path)
	defer C.free(unsafe.Pointer(folder))
	defer C.free(unsafe.Pointer(text))
	defer C.free(unsafe.Pointer(file))

	var model *C.tv_model
	if err := check(C.tv_open(folder, nil, &model)); err != nil {
		return err
	}
	defer C.tv_close(model)

	// The prompt's address lies in C's memory: cgo hands over no pointer to a Go pointer.
	prompts := (**C.char)(C.malloc(C.size_t(unsafe.Sizeof(text))))
	defer C.free(unsafe.Pointer(prompts))
	*prompts = text

	var pictures C.tv_pictures
	number := C.uint64_t(seed)
	if err := check(C.tv_generate(model, prompts, 1, &number, 1, &pictures)); err != nil {
		return err
	}
	defer C.tv_free(&pictures)
	return check(C.tv_write_png(file, pictures.pixels, pictures.height, pictures.width))
}

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "error: give a bundle, a prompt and a PNG file")
		os.Exit(2)
	}
	if err := draw(os.Args[1], os.Args[2], 7, os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

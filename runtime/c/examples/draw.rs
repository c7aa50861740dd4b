//! One picture from Rust, by plain FFI: rustc draw.rs -L /where/the/library/is && ./draw emoji.tv "dog" dog.png
use std::ffi::{c_char, c_int, CStr, CString};
use std::ptr::{null, null_mut};

#[repr(C)]
struct Model {
    _private: [u8; 0],
}

#[repr(C)]
struct Pictures {
    count: usize,
    height: usize,
    width: usize,
    pixels: *mut u8,
    code_rows: usize,
    code_columns: usize,
    codes: *mut i64,
    warnings: *mut *mut c_char,
    warning_count: usize,
}

#[link(name = "textualvision")]
extern "C" {
    fn tv_open(folder: *const c_char, options: *const u8, model: *mut *mut Model) -> c_int;
    fn tv_generate(
        model: *mut Model,
        prompts: *const *const c_char,
        prompt_count: usize,
        seeds: *const u64,
        seed_count: usize,
        pictures: *mut Pictures,
    ) -> c_int;
    fn tv_write_png(path: *const c_char, pixels: *const u8, height: usize, width: usize) -> c_int;
    fn tv_free(pictures: *mut Pictures);
    fn tv_close(model: *mut Model);
    fn tv_error() -> *const c_char;
    fn tv_hint() -> *const c_char;
}

/// The thread's last error, read before anything else is called on this thread.
fn check(status: c_int) -> Result<(), String> {
    let text = |pointer| unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned();
    match status {
        0 => Ok(()),
        _ => Err(unsafe { format!("{}\nhint: {}", text(tv_error()), text(tv_hint())) }),
    }
}

fn draw(bundle: &CStr, prompt: &CStr, seed: u64, path: &CStr) -> Result<(), String> {
    let mut model: *mut Model = null_mut();
    let mut pictures: Pictures = unsafe { std::mem::zeroed() };
    let prompts = [prompt.as_ptr()];
    unsafe {
        let result = check(tv_open(bundle.as_ptr(), null(), &mut model))
            .and_then(|_| check(tv_generate(model, prompts.as_ptr(), 1, &seed, 1, &mut pictures)))
            .and_then(|_| check(tv_write_png(path.as_ptr(), pictures.pixels, pictures.height, pictures.width)));
        tv_free(&mut pictures);
        tv_close(model);
        result
    }
}

fn main() {
    let texts: Result<Vec<CString>, _> = std::env::args().skip(1).map(CString::new).collect();
    let result = match texts.as_deref() {
        Ok([bundle, prompt, path]) => draw(bundle, prompt, 7, path),
        _ => Err("give a bundle, a prompt and a PNG file".to_string()),
    };
    if let Err(problem) = result {
        eprintln!("error: {problem}");
        std::process::exit(1);
    }
}

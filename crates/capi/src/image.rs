//! Pictures.

use std::ffi::{CString, c_char, c_void};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use chiaro_core::image::{PictureFormat, Rgb8Image, encode_picture, write_png};
use chiaro_core::shared::{DevicePicture, native_texture};
use chiaro_core::{Error, Picture};

use crate::handle::{Handle, Object};
use crate::status::{Fault, Status, border_of};
use crate::structs::WriteCallback;
use crate::text::{c_text, given};

/// `chiaro_image`.
pub(crate) struct Image {
    pixels: Rgb8Image,
    seed: u64,
    texts: Vec<(String, String)>,
    parameters: CString,
    on_device: Option<Arc<DevicePicture>>,
}

impl Object for Image {
    const KIND: u64 = 0x6368_6961_0000_0005;
    const NAME: &'static str = "image";
}

impl Image {
    pub(crate) fn of(picture: Picture) -> Arc<Handle<Self>> {
        Handle::new(Image {
            seed: picture.seed,
            texts: picture.text_chunks(),
            parameters: c_text(&picture.parameters.to_string()),
            on_device: picture.on_device,
            pixels: picture.image,
        })
    }

    pub(crate) fn preview(pixels: Rgb8Image, seed: u64) -> Arc<Handle<Self>> {
        Handle::new(Image { pixels, seed, texts: Vec::new(), parameters: c_text("{}"), on_device: None })
    }
}

/// # Safety
/// `image` is NULL or an image.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_image_retain(image: *mut Handle<Image>) -> *mut Handle<Image> {
    // SAFETY: the caller's.
    unsafe { Handle::retain(image) }
}

/// # Safety
/// `image` is NULL or an image that the caller owns.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_image_release(image: *mut Handle<Image>) {
    // SAFETY: the caller's.
    unsafe { Handle::release(image) }
}

/// # Safety
/// `image` is NULL or an image.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_image_width(image: *const Handle<Image>) -> u32 {
    // SAFETY: the caller's.
    unsafe { Handle::of(image) }.map_or(0, |image| image.value.pixels.width as u32)
}

/// # Safety
/// `image` is NULL or an image.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_image_height(image: *const Handle<Image>) -> u32 {
    // SAFETY: the caller's.
    unsafe { Handle::of(image) }.map_or(0, |image| image.value.pixels.height as u32)
}

/// # Safety
/// `image` is NULL or an image.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_image_seed(image: *const Handle<Image>) -> u64 {
    // SAFETY: the caller's.
    unsafe { Handle::of(image) }.map_or(0, |image| image.value.seed)
}

/// How a row of pixels is written.
#[derive(Clone, Copy)]
enum Format {
    Rgb8,
    Rgba8,
    Rgba32f,
}

impl Format {
    fn of(number: u32) -> Result<Self, Fault> {
        Ok(match number {
            1 => Format::Rgb8,
            2 => Format::Rgba8,
            3 => Format::Rgba32f,
            other => return Err(Fault::argument("format", &format!("expected 1, 2 or 3, got {other}"))),
        })
    }

    fn bytes(self) -> usize {
        match self {
            Format::Rgb8 => 3,
            Format::Rgba8 => 4,
            Format::Rgba32f => 16,
        }
    }

    fn write(self, pixels: &[u8], row: &mut [u8]) {
        match self {
            Format::Rgb8 => row.copy_from_slice(pixels),
            Format::Rgba8 => {
                for (to, from) in row.chunks_exact_mut(4).zip(pixels.chunks_exact(3)) {
                    to[..3].copy_from_slice(from);
                    to[3] = 255;
                }
            }
            Format::Rgba32f => {
                for (to, from) in row.chunks_exact_mut(16).zip(pixels.chunks_exact(3)) {
                    let values = [from[0], from[1], from[2], 255].map(|value| f32::from(value) / 255.0);
                    for (to, value) in to.chunks_exact_mut(4).zip(values) {
                        to.copy_from_slice(&value.to_ne_bytes());
                    }
                }
            }
        }
    }
}

/// Copies the pixels.
///
/// # Safety
/// `image` is NULL or an image; `buffer` is NULL or has `size` bytes that can be written; `error` is NULL or can be written.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_image_read(
    image: *const Handle<Image>,
    format: u32,
    stride: usize,
    buffer: *mut c_void,
    size: usize,
    error: *mut *mut Handle<Fault>,
) -> Status {
    // SAFETY: the caller's.
    unsafe {
        border_of(image, error, |image| {
            let (format, pixels) = (Format::of(format)?, &image.value.pixels);
            let row = pixels.width * format.bytes();
            let stride = if stride == 0 { row } else { stride };
            if stride < row {
                return Err(Fault::too_small("stride", row, stride));
            }
            let huge = || Fault::argument("stride", "the picture has more bytes than there are addresses");
            let between = stride.checked_mul(pixels.height.saturating_sub(1)).ok_or_else(huge)?;
            let wanted = between.checked_add(row).ok_or_else(huge)?;
            if size < wanted {
                return Err(Fault::too_small("buffer", wanted, size));
            }
            if buffer.is_null() {
                return Err(Fault::argument("buffer", "expected a place for the pixels, got NULL"));
            }
            let buffer = buffer.cast::<u8>();
            for (at, from) in pixels.data.chunks_exact(3 * pixels.width).enumerate() {
                format.write(from, std::slice::from_raw_parts_mut(buffer.add(at * stride), row));
            }
            Ok(())
        })
    }
}

/// The picture as a PNG.
///
/// # Safety
/// `image` is NULL or an image; `write` takes what it is given; `error` is NULL or can be written.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_image_png(
    image: *const Handle<Image>,
    write: Option<WriteCallback>,
    user: *mut c_void,
    error: *mut *mut Handle<Fault>,
) -> Status {
    // SAFETY: the caller's.
    unsafe {
        border_of(image, error, |image| {
            let write = write.ok_or_else(|| Fault::argument("write", "expected a function, got NULL"))?;
            let Image { pixels, texts, .. } = &image.value;
            let (bytes, _) = encode_picture(PictureFormat::Png, pixels, texts).map_err(Fault::internal)?;
            match write(bytes.as_ptr(), bytes.len(), user) {
                0 => Ok(()),
                other => Err(Fault::io(&format!("write: the program's writer failed with {other}"))),
            }
        })
    }
}

/// The picture into a file.
///
/// # Safety
/// `image` is NULL or an image; `path` is NULL or a text; `error` is NULL or can be written.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_image_save(
    image: *const Handle<Image>,
    path: *const c_char,
    overwrite: u32,
    error: *mut *mut Handle<Fault>,
) -> Status {
    // SAFETY: the caller's.
    unsafe {
        border_of(image, error, |image| {
            let path = given(path, "path")?.ok_or_else(|| Fault::argument("path", "expected a path, got NULL"))?;
            let Image { pixels, texts, .. } = &image.value;
            write_png(Path::new(path), pixels, texts, overwrite != 0).map_err(|error| match error {
                error @ Error::Io { .. } => Fault::from(error),
                other => Fault::io(&other.to_string()),
            })
        })
    }
}

/// All that is needed to draw it again.
///
/// # Safety
/// `image` is NULL or an image.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_image_parameters(image: *const Handle<Image>) -> *const c_char {
    // SAFETY: the caller's.
    unsafe { Handle::of(image) }.map_or(c"{}".as_ptr(), |image| image.value.parameters.as_ptr())
}

/// What `of` tells of a picture that is on the device; 0 or NULL where it is not.
///
/// # Safety
/// `image` is NULL or an image.
unsafe fn on_device<T>(image: *const Handle<Image>, none: T, of: impl FnOnce(&DevicePicture) -> Option<T>) -> T {
    // SAFETY: the caller's.
    let picture = unsafe { Handle::of(image) }.ok().and_then(|image| image.value.on_device.as_deref());
    let found = picture
        .and_then(|picture| std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| of(picture))).unwrap_or(None));
    found.unwrap_or(none)
}

/// The texture that a picture is on, as the system has it.
///
/// # Safety
/// `image` is NULL or an image.
unsafe fn native(image: *const Handle<Image>) -> *mut c_void {
    // SAFETY: the caller's.
    unsafe { on_device(image, std::ptr::null_mut(), |picture| native_texture(picture).map(NonNull::as_ptr)) }
}

/// The picture's `VkImage`.
///
/// # Safety
/// `image` is NULL or an image.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_image_vulkan(image: *const Handle<Image>) -> u64 {
    // SAFETY: the caller's.
    unsafe { on_device(image, 0, |picture| Some(crate::vulkan::image_of(picture))) }
}

/// The `ID3D12Resource` of a picture that is on the device.
///
/// # Safety
/// `image` is NULL or an image.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_image_d3d12(image: *const Handle<Image>) -> *mut c_void {
    // SAFETY: the caller's.
    if cfg!(windows) { unsafe { native(image) } } else { std::ptr::null_mut() }
}

/// The `MTLTexture` of a picture that is on the device.
///
/// # Safety
/// `image` is NULL or an image.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn chiaro_image_metal(image: *const Handle<Image>) -> *mut c_void {
    // SAFETY: the caller's.
    if cfg!(target_vendor = "apple") { unsafe { native(image) } } else { std::ptr::null_mut() }
}

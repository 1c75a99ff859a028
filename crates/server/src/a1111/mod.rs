//! AUTOMATIC1111's interface, `/sdapi/v1`, as its clients call it (stable-diffusion-webui, `modules/api/api.py` and `models.py`).
//!
//! | file | what is in it |
//! | --- | --- |
//! | `draw` | txt2img and img2img: called, waited for, answered |
//! | `job` | their fields → a job |
//! | `units` | scripts that are always on: ControlNet, One More Step |
//! | `inpaint` | masks, what lies under them, drawing only what is masked |
//! | `progress` | how far it is; interrupting |
//! | `lists` | options, models, samplers, and truthful empty lists |

mod draw;
mod inpaint;
mod job;
mod lists;
mod progress;
mod units;

use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use axum::routing::{get, post};

use crate::routes::Route;

pub(crate) use job::put;
pub(crate) use units::one_more_step;

pub(crate) const WARNINGS: HeaderName = HeaderName::from_static("x-chiaro-warnings");

pub(crate) fn routes() -> Vec<Route> {
    let route = |method, path, about, takes, gives, handler| Route { method, path, about, takes, gives, handler };
    let list = |path, about, handler| route("get", path, about, None, "List", handler);
    let done = |path, about, handler| route("post", path, about, None, "Done", handler);
    vec![
        route("post", "/sdapi/v1/txt2img", "Draw from a prompt.", Some("Txt2Img"), "Images", post(draw::txt2img)),
        route(
            "post",
            "/sdapi/v1/img2img",
            "Draw from a prompt and a picture.",
            Some("Img2Img"),
            "Images",
            post(draw::img2img),
        ),
        route(
            "post",
            "/sdapi/v1/png-info",
            "What a picture says of its making.",
            Some("PngInfo"),
            "Info",
            post(lists::png_info),
        ),
        route("get", "/sdapi/v1/progress", "How far the job that runs is.", None, "Progress", get(progress::progress)),
        route(
            "post",
            "/internal/progress",
            "How far a job of a name is.",
            Some("Task"),
            "Progress",
            post(progress::task),
        ),
        done("/sdapi/v1/interrupt", "Stop what runs of this client.", post(progress::interrupt)),
        done("/sdapi/v1/skip", "The same: pictures of one job are drawn together.", post(progress::interrupt)),
        route("get", "/sdapi/v1/options", "What is set.", None, "Options", get(lists::options)),
        route(
            "post",
            "/sdapi/v1/options",
            "Set the model, its autoencoder, layers left out.",
            Some("Options"),
            "Done",
            post(lists::set_options),
        ),
        route("get", "/sdapi/v1/cmd-flags", "Nothing that is anybody's business.", None, "Done", get(lists::nothing)),
        list("/sdapi/v1/samplers", "Samplers.", get(lists::samplers)),
        list("/sdapi/v1/schedulers", "Schedules of noise levels.", get(lists::schedulers)),
        list("/sdapi/v1/sd-models", "Models.", get(lists::sd_models)),
        list("/sdapi/v1/sd-vae", "Autoencoders.", get(lists::sd_vae)),
        list("/sdapi/v1/loras", "Adapters.", get(lists::loras)),
        route("get", "/sdapi/v1/embeddings", "Embeddings.", None, "Embeddings", get(lists::embeddings)),
        list("/sdapi/v1/upscalers", "None: pictures are enlarged as `hr_upscaler` says.", get(lists::none)),
        list("/sdapi/v1/latent-upscale-modes", "How latents are enlarged.", get(lists::latent_upscale_modes)),
        list("/sdapi/v1/prompt-styles", "None.", get(lists::none)),
        list("/sdapi/v1/hypernetworks", "None.", get(lists::none)),
        list("/sdapi/v1/face-restorers", "None.", get(lists::none)),
        list("/sdapi/v1/realesrgan-models", "None.", get(lists::none)),
        list("/sdapi/v1/extensions", "None.", get(lists::none)),
        route("get", "/sdapi/v1/scripts", "Scripts: those that are always on.", None, "Scripts", get(lists::scripts)),
        list("/sdapi/v1/script-info", "The same, described.", get(lists::script_info)),
        route("get", "/sdapi/v1/memory", "Memory of the device.", None, "Memory", get(lists::memory)),
        done("/sdapi/v1/refresh-checkpoints", "Look at the folders of models again.", post(lists::refresh)),
        done("/sdapi/v1/refresh-loras", "The same.", post(lists::refresh)),
        done("/sdapi/v1/refresh-vae", "The same.", post(lists::refresh)),
        done("/sdapi/v1/refresh-embeddings", "The same.", post(lists::refresh)),
        done("/sdapi/v1/unload-checkpoint", "Give up what stays on the device.", post(lists::unload)),
        done("/sdapi/v1/extra-single-image", "Refused with 501: there is no upscaler.", post(lists::no_upscaler)),
        done("/sdapi/v1/extra-batch-images", "Refused with 501: there is no upscaler.", post(lists::no_upscaler)),
        done("/sdapi/v1/interrogate", "Refused with 501: pictures are not described.", post(lists::no_words)),
        route("get", "/config", "Whose server it is.", None, "Config", get(lists::config)),
        route("get", "/internal/ping", "Whether it answers.", None, "Done", get(lists::nothing)),
        done(
            "/sdapi/v1/reload-checkpoint",
            "Nothing: models are loaded when they are asked for.",
            post(lists::nothing),
        ),
        route(
            "get",
            "/controlnet/version",
            "The interface of ControlNet units that is understood.",
            None,
            "Done",
            get(lists::control_version),
        ),
        route("get", "/controlnet/model_list", "ControlNets.", None, "Done", get(lists::control_models)),
        route("get", "/controlnet/module_list", "Preprocessors: none.", None, "Done", get(lists::control_modules)),
    ]
}

/// Says in a header what was asked for and not done.
pub(crate) fn warned(mut response: Response, warnings: &[String]) -> Response {
    let text: String =
        warnings.join("; ").chars().filter(|c| c.is_ascii() && !c.is_ascii_control()).take(2000).collect();
    if let Ok(value) = HeaderValue::from_str(&text)
        && !text.is_empty()
    {
        response.headers_mut().insert(WARNINGS, value);
    }
    response
}

//! What can be typed for `chiaro serve`.

use std::path::PathBuf;

use chiaro::pipeline::{Streaming, VaeTiling, WeightTypes};
use clap::Args;

use super::PrecisionArg;
use super::args::StreamingArg;
use super::memory_size::MemorySize;

/// Options of `serve`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "The page is at http://localhost:7860/, AUTOMATIC1111's interface at /sdapi/v1, OpenAI's at /v1, our own at /v1/chiaro;\n\
                        docs/SERVER.md describes them. Only this machine is served unless --address and a key say otherwise.\n\
                        CHIARO_API_KEY holds the key, --api-key-file a file with it; neither is ever printed.\n\
                        Ctrl-C lets the picture that is drawn end, a second one ends at once; what was accepted is drawn after the next start.\n\
                        Needs a build with the Cargo feature \"serve\"."
)]
pub(crate) struct ServeArgs {
    /// The port on this machine
    #[arg(long, short = 'p', default_value_t = 7860)]
    pub(crate) port: u16,
    /// Addresses to listen on in place of this machine's own, such as 0.0.0.0; needs a key
    #[arg(long, value_name = "IP")]
    pub(crate) address: Vec<std::net::IpAddr>,
    /// A name, beside localhost, that clients call this machine by
    #[arg(long, value_name = "NAME")]
    pub(crate) host: Vec<String>,
    /// A page elsewhere that may ask, as browsers name it, such as https://example.org
    #[arg(long, value_name = "ORIGIN")]
    pub(crate) cors_origin: Vec<String>,
    /// A file whose first line is the key that clients have to show
    #[arg(long, value_name = "FILE")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// Where jobs and pictures are kept [default: chiaro/server in XDG_DATA_HOME, ~/.local/share or APPDATA]
    #[arg(long, value_name = "DIR")]
    pub(crate) folder: Option<PathBuf>,
    /// The model of requests that name none, by its name [default: demo]
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// The OMS module of requests that say nothing of it, by its name [default: demo with the demo model]
    #[arg(long, value_name = "NAME|off")]
    pub(crate) oms: Option<String>,
    #[arg(long, short = 'd', default_value = "auto")]
    pub(crate) device: String,
    #[arg(long, value_enum, default_value_t = PrecisionArg::Auto)]
    pub(crate) precision: PrecisionArg,
    #[arg(long)]
    pub(crate) weights: Option<WeightTypes>,
    /// The most memory that all models together, and a job, may take, as 8GB [default: what the device has]
    #[arg(long)]
    pub(crate) vram: Option<MemorySize>,
    #[arg(long, default_value = "auto")]
    pub(crate) vae_tiling: VaeTiling,
    #[arg(long, value_enum, default_value_t = StreamingArg::Auto)]
    pub(crate) stream_weights: StreamingArg,
    /// Jobs that may wait; more are told to come again
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) max_queue: u32,
    /// Jobs of one model and size whose steps share forwards: faster on GPUs, and each picture is the same as alone; 1 draws one after the other
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) together: u16,
    /// Days that pictures are kept
    #[arg(long, value_name = "DAYS", default_value_t = 30.0)]
    pub(crate) keep: f64,
    /// What pictures may take on disk, as 10GB; the oldest go first
    #[arg(long, value_name = "SIZE", default_value = "10GiB")]
    pub(crate) disk: MemorySize,
    /// Seconds that the picture that is drawn may take to end when the server is asked to
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    pub(crate) grace: u64,
    /// Print OpenAPI's description of all addresses, and serve nothing
    #[arg(long)]
    pub(crate) print_openapi: bool,
}

impl ServeArgs {
    /// What is chosen of the streaming of weights.
    #[cfg(feature = "serve")]
    pub(crate) fn streaming(&self) -> Streaming {
        self.stream_weights.into()
    }
}

//! `chiaro serve`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use chiaro::pipeline::{Device, Places, hash_file};
use chiaro::{Error, Result, files};
use chiaro_server::{Key, Server, Settings, Stop};

use super::serve_args::ServeArgs;
use super::{interrupt, print_line, print_text, progress};

/// Bytes of a file with a key.
const KEY_BYTES: u64 = 4096;
/// Days that anything is kept.
const MOST_DAYS: f64 = 36_500.0;

pub(super) fn run(args: &ServeArgs) -> Result<()> {
    if args.print_openapi {
        return print_text(&chiaro_server::openapi());
    }
    let mut settings = settings(args)?;
    let device = Device::choose(&args.device, args.precision.into())?
        .with_weights(args.weights.unwrap_or_default())
        .with_vae_tiling(args.vae_tiling)
        .with_streaming(args.streaming())?;
    let device = match hash_file() {
        Some(path) => device.with_hash_file(path),
        None => device,
    };
    device.remarks().iter().for_each(|remark| progress::tell(remark));
    settings.memory_bytes = args.vram.map(|size| size.0).or_else(|| device.memory_bytes());
    let described = device.describe();
    let server = Server::open(settings, device)?;
    let stop = Stop::new();
    interrupt::end_in_order(&stop);
    print_line(&format!("chiaro serves on {described}"))?;
    for address in server.addresses() {
        print_line(&format!("  http://{address}/"))?;
    }
    if server.waiting() > 0 {
        print_line(&format!("{} jobs of an earlier run go on", server.waiting()))?;
    }
    server.run(&stop)
}

fn settings(args: &ServeArgs) -> Result<Settings> {
    let folder = args.folder.clone().or_else(data_folder);
    let folder =
        folder.ok_or_else(|| Error::refused("no folder for jobs and pictures is known; name one with --folder"))?;
    let mut settings = Settings::new(folder, Places::from_env());
    settings.addresses = match args.address.as_slice() {
        [] => Settings::loopback(args.port),
        chosen => chosen.iter().map(|ip| SocketAddr::new(*ip, args.port)).collect(),
    };
    settings.key = key(args)?;
    settings.hosts.clone_from(&args.host);
    settings.origins.clone_from(&args.cors_origin);
    settings.model.clone_from(&args.model);
    settings.oms.clone_from(&args.oms);
    settings.together = usize::from(args.together);
    settings.max_queue = args.max_queue as usize;
    if !(args.keep >= 0.0 && args.keep <= MOST_DAYS) {
        return Err(Error::refused(format!("--keep: expected 0 to {MOST_DAYS} days, got {}", args.keep)));
    }
    settings.keep = Duration::from_secs_f64(args.keep * 86_400.0);
    settings.disk_bytes = args.disk.0;
    settings.grace = Duration::from_secs(args.grace);
    Ok(settings)
}

/// The key of a file, or of the environment.
fn key(args: &ServeArgs) -> Result<Option<Key>> {
    let text = match &args.api_key_file {
        Some(path) => Some(files::read_text(path, KEY_BYTES, "a key")?),
        None => std::env::var("CHIARO_API_KEY").ok().filter(|key| !key.is_empty()),
    };
    text.map(|text| Key::new(text.lines().next().unwrap_or_default().trim())).transpose()
}

/// Where programs keep what is their users'.
fn data_folder() -> Option<PathBuf> {
    let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let data = var("XDG_DATA_HOME")
        .or_else(|| if cfg!(windows) { var("APPDATA") } else { None })
        .or_else(|| var("HOME").map(|home| home.join(".local/share")));
    data.map(|data| data.join("chiaro/server"))
}

//! What whoever starts the server chooses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use chiaro::lookup::Places;
use chiaro::{Error, Result};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// What whoever starts the server chooses; all but the folder has a default.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Settings {
    /// Where to listen. Any but loopback addresses need a [`key`](Self::key).
    pub addresses: Vec<SocketAddr>,
    /// What clients have to show; `None` lets every program of this machine in.
    pub key: Option<Key>,
    /// Names, beside `localhost` and addresses of loopback, that clients may call the server by (`Host`).
    pub hosts: Vec<String>,
    /// Origins of other pages that may ask, each exactly as browsers send it (`https://example.org`).
    pub origins: Vec<String>,
    /// Where the journal, jobs and pictures are. One server at a time.
    pub folder: PathBuf,
    /// Where models are looked up.
    pub places: Places,
    /// The model of requests that name none; the demo model when `None`.
    pub model: Option<String>,
    /// The OMS module of requests that say nothing of it, for models other than the demo's: its name.
    pub oms: Option<String>,
    /// Jobs that may wait; more are told to come again.
    pub max_queue: usize,
    /// How long jobs that have ended are kept.
    pub keep: Duration,
    /// Bytes that jobs that have ended may take on disk; the oldest go first.
    pub disk_bytes: u64,
    /// Bytes that a job may take of the device; one that needs more is refused when it is handed in.
    pub memory_bytes: Option<u64>,
    /// Jobs of one model and size whose steps share forwards, at most: each has the same picture as alone. 1 draws one after the other.
    pub together: usize,
    /// How long the picture that is being drawn may take to end when the server is asked to.
    pub grace: Duration,
}

impl Settings {
    /// The port where programs look for AUTOMATIC1111's.
    pub const PORT: u16 = 7860;

    /// This machine alone, with defaults: 256 jobs wait, what has ended is kept for 30 days and within 10 GiB, 10 seconds to end in.
    pub fn new(folder: PathBuf, places: Places) -> Self {
        Settings {
            addresses: Self::loopback(Self::PORT),
            key: None,
            hosts: Vec::new(),
            origins: Vec::new(),
            folder,
            places,
            model: None,
            oms: None,
            max_queue: 256,
            keep: Duration::from_secs(30 * 24 * 3600),
            disk_bytes: 10 << 30,
            memory_bytes: None,
            together: 4,
            grace: Duration::from_secs(10),
        }
    }

    /// This machine's own addresses.
    pub fn loopback(port: u16) -> Vec<SocketAddr> {
        [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)].map(|ip| SocketAddr::new(ip, port)).into()
    }

    /// # Errors
    /// [`Error::Request`] where the settings do not go together.
    pub(crate) fn check(&self) -> Result<()> {
        if self.addresses.is_empty() {
            return Err(Error::request("address", "expected at least one, got none"));
        }
        if let Some(open) = self.addresses.iter().find(|address| !address.ip().is_loopback() && self.key.is_none()) {
            return Err(Error::request(
                "address",
                format!("{open} can be reached from other machines, which needs a key that clients show"),
            ));
        }
        for origin in &self.origins {
            let rest = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
            if rest.is_none_or(|rest| rest.is_empty() || rest.contains(['/', '*', ' ', '@'])) {
                return Err(Error::request(
                    "origin",
                    format!("expected one as browsers send it, such as https://example.org, got {origin:?}"),
                ));
            }
        }
        Ok(())
    }
}

/// What clients have to show. Held as its SHA-256, compared in the same time whatever came.
#[derive(Clone)]
pub struct Key([u8; 32]);

impl Key {
    /// Characters that a key has at least.
    pub const LEAST: usize = 16;

    /// # Errors
    /// [`Error::Request`] when it is shorter than [`LEAST`](Self::LEAST) characters, or has others than visible ASCII, which headers cannot carry.
    pub fn new(text: &str) -> Result<Self> {
        if text.len() < Self::LEAST || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            let least = Self::LEAST;
            return Err(Error::request("key", format!("expected at least {least} visible ASCII characters")));
        }
        Ok(Key(Sha256::digest(text).into()))
    }

    pub(crate) fn is(&self, shown: &str) -> bool {
        let shown: [u8; 32] = Sha256::digest(shown).into();
        self.0.ct_eq(&shown).into()
    }
}

/// Told to nobody.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_goes_without_a_key() {
        let mut settings = Settings::new("x".into(), Places::default());
        assert!(settings.check().is_ok());
        settings.addresses = vec!["0.0.0.0:7860".parse().expect("an address")];
        assert!(settings.check().is_err_and(|e| e.to_string().contains("0.0.0.0:7860")));
        settings.key = Some(Key::new("0123456789abcdef").expect("long enough"));
        assert!(settings.check().is_ok());
        for origin in ["*", "null", "https://", "example.org", "https://a/b", "https://*.a"] {
            let settings = Settings { origins: vec![origin.into()], ..settings.clone() };
            assert!(settings.check().is_err(), "{origin}");
        }
    }

    #[test]
    fn keys_are_compared_whole_and_not_shown() {
        let key = Key::new("0123456789abcdef").expect("long enough");
        assert!(key.is("0123456789abcdef"));
        assert!(!key.is("0123456789abcdeF") && !key.is("0123456789abcde") && !key.is(""));
        assert_eq!(format!("{key:?}"), "Key(…)");
        assert!(Key::new("short").is_err() && Key::new("0123456789 abcdef").is_err());
    }
}

//! The hub, and who asks: requests that end in time, whatever the other side does.

use std::io::Read;
use std::time::{Duration, Instant};

use chiaro::pipeline::successor;
use chiaro::{Error, Result};
use ureq::config::RedirectAuthHeaders;

use super::listing::Listing;

const ENDPOINT: &str = "https://huggingface.co";
/// A listing is some hundred kilobytes.
const MAX_LISTING: u64 = 16 << 20;
/// Within this time something must come; `HF_HUB_DOWNLOAD_TIMEOUT` says another, in seconds.
const PATIENCE: Duration = Duration::from_secs(30);
/// So many bytes must come within that time, and so much further must an attempt get: below is as good as nothing.
pub(super) const LEAST: u64 = 16 << 10;
const REDIRECTS: u32 = 5;
/// Attempts that get nowhere, in a row.
pub(super) const TRIES: u32 = 5;
/// The longest that a hub that is busy may ask to wait.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// Where models are fetched from.
pub(super) struct Hub {
    agent: ureq::Agent,
    pub(super) endpoint: String,
    token: Option<String>,
    pub(super) patience: Duration,
}

/// Why an attempt ended.
pub(super) enum Trouble {
    /// Another attempt would end the same.
    Final(Error),
    /// What may be better the next time, and how long to wait for that.
    Passing { why: String, wait: Duration },
}

/// What an attempt gives.
pub(super) type Attempt<T> = std::result::Result<T, Trouble>;

impl Trouble {
    fn passing(why: impl Into<String>) -> Self {
        Trouble::Passing { why: why.into(), wait: Duration::ZERO }
    }
}

/// What begins to come.
pub(super) struct Answer {
    body: ureq::BodyReader<'static>,
    url: String,
    patience: Duration,
    /// The byte of the file that it begins with.
    pub(super) from: u64,
    /// Bytes that are said to come.
    pub(super) length: Option<u64>,
}

impl Hub {
    pub(super) fn from_env() -> Result<Self> {
        let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let endpoint = var("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into());
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            return Err(Error::refused(format!(
                "HF_ENDPOINT: expected an address with http:// or https://, got {endpoint:?}"
            )));
        }
        let patience = match var("HF_HUB_DOWNLOAD_TIMEOUT") {
            None => PATIENCE,
            Some(text) => match text.parse::<u32>() {
                Ok(seconds @ 1..=3600) => Duration::from_secs(seconds.into()),
                _ => {
                    return Err(Error::refused(format!(
                        "HF_HUB_DOWNLOAD_TIMEOUT: expected seconds from 1 to 3600, got {text:?}"
                    )));
                }
            },
        };
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // The token goes to the hub alone, and nothing that began encrypted goes on without.
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .https_only(endpoint.starts_with("https://"))
            .max_redirects(REDIRECTS)
            .timeout_resolve(Some(patience))
            .timeout_connect(Some(patience))
            .timeout_recv_response(Some(patience))
            .timeout_per_read(Some(patience))
            .build();
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        Ok(Hub { agent: config.into(), endpoint, token: var("HF_TOKEN"), patience })
    }

    /// Whether an address is one of this hub.
    pub(super) fn is_at(&self, host: &str) -> bool {
        let own = self.endpoint.split_once("://").map_or("", |(_, rest)| rest);
        own.split('/').next() == Some(host) || (self.endpoint == ENDPOINT && host == "www.huggingface.co")
    }

    fn request(&self, url: &str, from: u64) -> ureq::RequestBuilder<ureq::typestate::WithoutBody> {
        let mut request = self.agent.get(url);
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        request
    }

    /// A repository's files at a revision.
    pub(super) fn listing(&self, repository: &str, revision: &str) -> Result<Listing> {
        let mut tries = 0;
        loop {
            match self.try_listing(repository, revision) {
                Ok(listing) => return Ok(listing),
                Err(Trouble::Final(error)) => return Err(error),
                Err(Trouble::Passing { why, wait }) => {
                    tries += 1;
                    if tries >= TRIES {
                        return Err(Error::model(format!("{repository}: {why}; try again later")));
                    }
                    std::thread::sleep(pause(tries, wait));
                }
            }
        }
    }

    fn try_listing(&self, repository: &str, revision: &str) -> Attempt<Listing> {
        let url = format!("{}/api/models/{repository}/revision/{revision}?blobs=true", self.endpoint);
        let request = self.request(&url, 0).config().timeout_recv_body(Some(self.patience)).build();
        let mut response = request.call().map_err(|e| network(&url, &e))?;
        match response.status().as_u16() {
            200 => {}
            status @ (401 | 403 | 404) => return Err(Trouble::Final(not_there(repository, revision, status))),
            _ => return Err(busy(&url, &response)),
        }
        let text =
            response.body_mut().with_config().limit(MAX_LISTING).read_to_string().map_err(|e| network(&url, &e))?;
        let listing: Listing = serde_json::from_str(&text)
            .map_err(|e| Trouble::Final(Error::model(format!("{url}: not the listing expected there: {e}"))))?;
        listing.check().map_err(Trouble::Final)?;
        Ok(listing)
    }

    /// A file from byte `from` on; a hub without ranges gives all of it.
    pub(super) fn file(&self, repository: &str, commit: &str, name: &str, from: u64) -> Attempt<Answer> {
        let url = format!("{}/{repository}/resolve/{commit}/{}", self.endpoint, escaped(name));
        let response = self.request(&url, from).call().map_err(|e| network(&url, &e))?;
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let begins = match response.status().as_u16() {
            200 => 0,
            206 => {
                let range = header("content-range")
                    .and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.trim().parse::<u64>().ok());
                match range {
                    Some(begins) if begins != from => {
                        return Err(Trouble::passing(format!(
                            "asked from byte {from} on, the hub sends from {begins} on"
                        )));
                    }
                    _ => from,
                }
            }
            status @ (401 | 403 | 404) => {
                return Err(Trouble::Final(Error::model(format!("{url}: the hub answers {status}"))));
            }
            _ => return Err(busy(&url, &response)),
        };
        let length = header("content-length").and_then(|length| length.parse().ok());
        let body = response.into_body().into_reader();
        Ok(Answer { body, url, patience: self.patience, from: begins, length })
    }
}

impl Answer {
    /// Hands on what comes until the end. A hub from which less than [`LEAST`] comes within its time has stalled.
    pub(super) fn read(mut self, mut take: impl FnMut(&[u8]) -> Attempt<()>) -> Attempt<()> {
        let mut buffer = vec![0; 1 << 20];
        let (mut since, mut came) = (Instant::now(), 0);
        loop {
            let count = self.body.read(&mut buffer).map_err(|e| Trouble::passing(format!("{}: {e}", self.url)))?;
            if count == 0 {
                return Ok(());
            }
            take(&buffer[..count])?;
            came += count as u64;
            if since.elapsed() >= self.patience {
                if came < LEAST {
                    let seconds = self.patience.as_secs();
                    return Err(Trouble::passing(format!("{}: {came} bytes came in {seconds} s", self.url)));
                }
                (since, came) = (Instant::now(), 0);
            }
        }
    }
}

/// How long to wait before attempt `tries`: longer each time, or what the hub asks for.
pub(super) fn pause(tries: u32, asked: Duration) -> Duration {
    let own = Duration::from_millis(250) * 2u32.pow(tries.min(5));
    own.max(asked.min(MAX_WAIT))
}

fn not_there(repository: &str, revision: &str, status: u16) -> Error {
    if let Some(moved) = successor(repository) {
        return Error::model(format!(
            "{repository}: the hub has it no longer; its copy is {moved}: `chiaro pull {moved}`"
        ));
    }
    match status {
        404 => Error::model(format!("{repository}: the hub does not know it at {revision}")),
        _ => Error::model(format!(
            "{repository}: the hub answers {status}: it is not there, or it is gated and HF_TOKEN is not of an account that may read it"
        )),
    }
}

fn busy(url: &str, response: &ureq::http::Response<ureq::Body>) -> Trouble {
    let status = response.status();
    let why = format!("{url}: the hub answers {}", status.as_u16());
    let asked = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if status.is_server_error() || [408, 416, 425, 429].contains(&status.as_u16()) {
        return Trouble::Passing { why, wait: Duration::from_secs(asked.unwrap_or(0)) };
    }
    Trouble::Final(Error::model(why))
}

fn network(url: &str, error: &ureq::Error) -> Trouble {
    let why = format!("{url}: {error}");
    match error {
        ureq::Error::BadUri(_)
        | ureq::Error::TooManyRedirects
        | ureq::Error::RedirectFailed
        | ureq::Error::RequireHttpsOnly(_)
        | ureq::Error::BodyExceedsLimit(_)
        | ureq::Error::Tls(_) => Trouble::Final(Error::model(why)),
        _ => Trouble::passing(why),
    }
}

/// A file's name in an address.
fn escaped(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte);
    name.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_grows_and_ends() {
        let waits: Vec<u64> = (1..=7).map(|tries| pause(tries, Duration::ZERO).as_millis() as u64).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 8000, 8000]);
        assert_eq!(pause(1, Duration::from_secs(9)), Duration::from_secs(9));
        assert_eq!(pause(1, Duration::from_secs(1 << 40)), MAX_WAIT);
    }

    #[test]
    fn names_are_escaped() {
        assert_eq!(escaped("unet/a b#c?.safetensors"), "unet/a%20b%23c%3F.safetensors");
    }
}

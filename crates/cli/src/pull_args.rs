//! What can be typed for `chiaro pull`.

use std::str::FromStr;

use clap::{Args, ValueEnum};

/// Options of `pull`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "HF_HOME or HF_HUB_CACHE say where the cache is, HF_TOKEN opens gated models, HF_ENDPOINT names another hub,\n\
                        HF_HUB_DOWNLOAD_TIMEOUT how many seconds a silent hub is waited for.\n\
                        A download that was stopped goes on where it stood. Needs a build with the Cargo feature \"pull\"."
)]
pub(crate) struct PullArgs {
    /// The repository, such as stable-diffusion-v1-5/stable-diffusion-v1-5, or the address of its page, or of one of its files
    #[arg(value_name = "ORGANISATION/REPOSITORY")]
    pub(crate) repository: Address,
    /// Only these of its files or folders, such as model.safetensors, or vae [default: what of it is a model]
    #[arg(value_name = "FILE")]
    pub(crate) files: Vec<String>,
    /// Branch, tag or commit
    #[arg(long, value_name = "NAME", default_value = "main")]
    pub(crate) revision: String,
    /// Which weights are taken where there are two forms
    #[arg(long, value_enum, default_value_t = VariantArg::Fp16)]
    pub(crate) variant: VariantArg,
    /// No progress bar
    #[arg(long, short = 'q')]
    pub(crate) quiet: bool,
    /// Print JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

/// A repository of the hub, or a file in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    /// ORGANISATION/REPOSITORY.
    pub(crate) name: String,
    /// The host of an address.
    pub(crate) host: Option<String>,
    /// The branch, tag or commit that an address has.
    pub(crate) revision: Option<String>,
    /// The file or folder that an address leads to.
    pub(crate) file: Option<String>,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("expected ORGANISATION/REPOSITORY, or the address of one, got {text:?}");
        let rest = ["https://", "http://"].iter().find_map(|scheme| text.strip_prefix(scheme));
        let (host, path) = match rest {
            Some(rest) => {
                let (host, path) = rest.split_once('/').ok_or_else(refused)?;
                (Some(host.to_owned()), path.split(['?', '#']).next().unwrap_or_default())
            }
            None => (None, text),
        };
        let mut parts = path.trim_end_matches('/').split('/');
        let plain = |part: &&str| {
            let signs = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !part.is_empty() && !part.starts_with('.') && part.chars().all(signs)
        };
        let mut part = || parts.next().filter(plain);
        let (Some(owner), Some(repository)) = (part(), part()) else { return Err(refused()) };
        let name = format!("{owner}/{repository}");
        let (revision, file) = match (&host, parts.next()) {
            (_, None) => (None, None),
            (Some(_), Some("resolve" | "blob" | "tree" | "raw")) => {
                let revision = parts.next().ok_or_else(refused)?.to_owned();
                let file = parts.collect::<Vec<_>>().join("/").replace("%20", " ");
                (Some(revision), Some(file).filter(|file| !file.is_empty()))
            }
            // As --model takes it.
            (None, Some(first)) => {
                let file: Vec<&str> = std::iter::once(first).chain(parts).collect();
                (None, Some(file.join("/")))
            }
            _ => return Err(refused()),
        };
        Ok(Address { name, host, revision, file })
    }
}

/// Which form of the weights `pull` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum VariantArg {
    /// half precision: half the bytes
    Fp16,
    /// as trained
    Full,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_and_addresses() {
        let read = |text: &str| text.parse::<Address>().unwrap_or_else(|e| panic!("{e}"));
        let some = |text: &str| Some(text.to_owned());
        let plain = read("some/model-2.1");
        assert_eq!(plain, Address { name: "some/model-2.1".into(), host: None, revision: None, file: None });
        assert_eq!(read("some/model/vae/x.safetensors").file, some("vae/x.safetensors"));
        let page = read("https://hub.example/some/model/");
        assert_eq!((page.host, page.file), (some("hub.example"), None));
        for link in ["blob/main/a/b.gguf", "resolve/main/a/b.gguf?download=true", "raw/main/a/b.gguf#x"] {
            let file = read(&format!("https://hub.example/some/model/{link}"));
            assert_eq!((file.name.as_str(), file.revision, file.file), ("some/model", some("main"), some("a/b.gguf")));
        }
        for none in
            ["", "model", "a/", "/a/b", "../x", "a/..", "https://hub.example/", "https://hub.example/x", "a b/c", "in"]
        {
            assert!(none.parse::<Address>().is_err(), "{none:?}");
        }
    }
}

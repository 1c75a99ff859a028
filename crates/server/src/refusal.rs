//! What is wrong with a request, as each interface tells it.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chiaro::{Error, ErrorCode};
use serde_json::{Map, Value, json};

/// Why a request is not carried out. Rendered by the interface that it came through.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    /// One word of ours.
    pub(crate) code: &'static str,
    /// The field that it is about.
    pub(crate) field: Option<String>,
    pub(crate) message: String,
    /// What else a program may act on.
    pub(crate) more: Map<String, Value>,
    /// Seconds after which to ask again.
    pub(crate) retry_after: Option<u64>,
}

pub(crate) type Answer<T> = Result<T, Refusal>;

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Refusal { status, code, field: None, message: message.into(), more: Map::new(), retry_after: None }
    }

    /// A field with a value that it cannot have.
    pub(crate) fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        let field = field.into();
        Refusal { field: Some(field), ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "request", message) }
    }

    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "request", message)
    }

    pub(crate) fn not_found(what: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", what)
    }

    /// The whole sentence.
    pub(crate) fn told(&self) -> String {
        match &self.field {
            Some(field) => format!("{field}: {}", self.message),
            None => self.message.clone(),
        }
    }

    /// The library's error, without paths of this machine.
    pub(crate) fn of(error: &Error) -> Self {
        let (status, code) = match error.code() {
            ErrorCode::Request => (StatusCode::UNPROCESSABLE_ENTITY, "request"),
            ErrorCode::Model if matches!(error.cause(), Error::NotFound { .. }) => (StatusCode::NOT_FOUND, "not_found"),
            ErrorCode::Model => (StatusCode::UNPROCESSABLE_ENTITY, "model"),
            // Pictures in requests are the only files that requests bring.
            ErrorCode::Io if is_about_input(error) => (StatusCode::UNPROCESSABLE_ENTITY, "request"),
            ErrorCode::Io => (StatusCode::INTERNAL_SERVER_ERROR, "io"),
            ErrorCode::OutOfMemory => (StatusCode::PAYLOAD_TOO_LARGE, "out_of_memory"),
            ErrorCode::Unsupported => (StatusCode::UNPROCESSABLE_ENTITY, "unsupported"),
            ErrorCode::Cancelled => (StatusCode::CONFLICT, "cancelled"),
            ErrorCode::NonFinite => (StatusCode::INTERNAL_SERVER_ERROR, "not_finite"),
            ErrorCode::DeviceLost => (StatusCode::SERVICE_UNAVAILABLE, "device_lost"),
            ErrorCode::Device | ErrorCode::Kernel => (StatusCode::INTERNAL_SERVER_ERROR, "device"),
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        };
        let mut refusal = Self::new(status, code, "");
        if let Error::OutOfMemory { wanted, available, .. } | Error::Unsupported { wanted, available, .. } =
            error.cause()
        {
            let numbers = [("needed_bytes", wanted), ("available_bytes", available)];
            let known = numbers.into_iter().filter_map(|(name, bytes)| Some((name.to_owned(), (*bytes)?.into())));
            refusal.more.extend(known);
        }
        let remedies: Vec<Value> = error.remedies().iter().map(|remedy| remedy.to_string().into()).collect();
        if !remedies.is_empty() {
            refusal.more.insert("remedies".into(), remedies.into());
        }
        let message = without_paths(&error.to_string());
        match error.field() {
            Some(field) => {
                let rest = message.strip_prefix(field).map_or(&*message, |rest| rest.trim_start_matches(": "));
                refusal.message = rest.to_owned();
                refusal.field = Some(field.to_owned());
            }
            None => refusal.message = message,
        }
        refusal
    }

    /// Ours: what a program acts on is in `error`.
    pub(crate) fn native(&self) -> Value {
        let mut inner = self.more.clone();
        inner.insert("code".into(), self.code.into());
        inner.insert("message".into(), self.told().into());
        if let Some(field) = &self.field {
            inner.insert("field".into(), field.clone().into());
        }
        json!({ "error": inner })
    }

    /// AUTOMATIC1111's (`modules/api/api.py`, `api_middleware`): `error`, `detail`, `body`, `errors`.
    fn a1111(&self) -> Value {
        json!({ "error": self.code, "detail": self.told(), "body": "", "errors": self.told() })
    }

    /// OpenAI's: `error` with `message`, `type`, `param`, `code`.
    pub(crate) fn openai(&self) -> Value {
        let kind = match self.status.as_u16() {
            401 => "authentication_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        json!({ "error": { "message": self.told(), "type": kind, "param": self.field, "code": self.code } })
    }

    pub(crate) fn render(&self, dialect: Dialect) -> Response {
        let body = match dialect {
            Dialect::Native => self.native(),
            Dialect::A1111 => self.a1111(),
            Dialect::OpenAi => self.openai(),
        };
        // Fields that are no JSON of the right kind are 400 in OpenAI's interface.
        let status = match (dialect, self.status) {
            (Dialect::OpenAi, StatusCode::UNPROCESSABLE_ENTITY) => StatusCode::BAD_REQUEST,
            (_, status) => status,
        };
        let mut response = (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            let ways = HeaderValue::from_static("Bearer, Basic realm=\"chiaro\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, ways);
        }
        response
    }
}

/// Whether a file that could not be read is a picture of the request: what the library calls bytes.
fn is_about_input(error: &Error) -> bool {
    matches!(error.cause(), Error::Io { path, source } if path == "bytes" && source.kind() == std::io::ErrorKind::InvalidData)
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Refusal::of(&error)
    }
}

/// An answer without a body, which [`render`] gives one.
impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status;
        response.extensions_mut().insert(self);
        response
    }
}

/// Which interface a request came through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Native,
    A1111,
    OpenAi,
}

impl Dialect {
    pub(crate) fn of(path: &str) -> Self {
        if path.starts_with("/sdapi/") || path.starts_with("/internal/") || path == "/config" {
            Dialect::A1111
        } else if path.starts_with("/v1/") && !path.starts_with("/v1/chiaro/") {
            Dialect::OpenAi
        } else {
            Dialect::Native
        }
    }
}

/// Gives refusals, and what the framework refused by itself, the form of an interface.
pub(crate) fn render(dialect: Dialect, response: Response) -> Response {
    if let Some(refusal) = response.extensions().get::<Refusal>() {
        return refusal.render(dialect);
    }
    let status = response.status();
    let is_ours = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if !(status.is_client_error() || status.is_server_error()) || is_ours {
        return response;
    }
    let (code, message) = match status {
        StatusCode::NOT_FOUND => ("not_found", "there is nothing at this address"),
        StatusCode::METHOD_NOT_ALLOWED => ("method", "this address takes another method"),
        StatusCode::PAYLOAD_TOO_LARGE => ("too_large", "the request is larger than this server reads, 64 MiB"),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => ("media_type", "expected application/json"),
        status if status.is_server_error() => ("internal", "the server failed"),
        _ => ("request", "the request cannot be read"),
    };
    let mut rendered = Refusal::new(status, code, message).render(dialect);
    if let Some(allowed) = response.headers().get(header::ALLOW) {
        rendered.headers_mut().insert(header::ALLOW, allowed.clone());
    }
    rendered
}

/// A message in which only the last parts of paths of this machine are left.
pub(crate) fn without_paths(message: &str) -> String {
    let mut out = String::with_capacity(message.len());
    let mut rest = message;
    while let Some(at) = start_of_path(rest) {
        out += &rest[..at];
        let path = &rest[at..];
        let end = path.find(|c: char| c.is_whitespace() || "\"'`,;()[]<>".contains(c)).unwrap_or(path.len());
        let (path, after) = path.split_at(end);
        // A colon ends a path unless it is a drive's.
        let from = if path.as_bytes().get(1) == Some(&b':') { 2 } else { 0 };
        let colon = path[from..].find(':').map_or(path.len(), |colon| colon + from);
        let (path, tail) = path.split_at(colon);
        out += path.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or_default();
        out += tail;
        rest = after;
    }
    out + rest
}

/// Where an absolute path begins: `/a/…`, `C:\…`, `\\host\…`.
fn start_of_path(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    (0..bytes.len()).find(|&at| {
        let starts = at == 0 || !(bytes[at - 1].is_ascii_alphanumeric() || b"./_-:~\\>".contains(&bytes[at - 1]));
        let next = |n: usize| bytes.get(at + n).copied().unwrap_or(b' ');
        let named = |byte: u8| byte.is_ascii_alphanumeric() || b"._-~".contains(&byte) || byte >= 0x80;
        starts
            && text.is_char_boundary(at)
            && (bytes[at] == b'/' && named(next(1))
                || bytes[at] == b'\\' && next(1) == b'\\'
                || bytes[at].is_ascii_alphabetic() && next(1) == b':' && (next(2) == b'\\' || next(2) == b'/'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_not_told() {
        for (message, told) in [
            ("/home/me/models/x.safetensors: expected a UNet", "x.safetensors: expected a UNet"),
            ("x: no such file or folder, nor in /home/a/b, /c", "x: no such file or folder, nor in b, c"),
            (r"C:\Users\me\x.ckpt: damaged", "x.ckpt: damaged"),
            (r"\\host\share\x: damaged", "x: damaged"),
            ("\"/a b/c\"", "\"a b/c\""),
            ("stabilityai/stable-diffusion: 3/4 and/or a / b", "stabilityai/stable-diffusion: 3/4 and/or a / b"),
            ("`/é/ü`", "`ü`"),
            ("", ""),
        ] {
            assert_eq!(without_paths(message), told);
        }
    }

    #[test]
    fn errors_keep_their_field_and_numbers() {
        let refusal = Refusal::of(&Error::request("width", "expected 64, got 1"));
        assert_eq!((refusal.status.as_u16(), refusal.told().as_str()), (422, "width: expected 64, got 1"));
        let refusal = Refusal::of(&Error::out_of_memory("gpu", "UNet", Some(7), Some(5)));
        assert_eq!(refusal.status.as_u16(), 413);
        assert_eq!(refusal.native()["error"]["needed_bytes"], 7);
        assert_eq!(refusal.openai()["error"]["type"], "invalid_request_error");
        assert_eq!(refusal.a1111()["error"], "out_of_memory");
    }
}

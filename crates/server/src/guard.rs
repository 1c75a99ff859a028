//! Who may ask, and what every answer says.
//!
//! A local server is reachable by every page that the machine's browser shows. What keeps those out: the name that they call it by (`Host`, against
//! rebinding), where they come from (`Origin`, `Sec-Fetch-Site`), kinds of content that a page cannot send to another site without asking first, and
//! a key where the server can be reached from elsewhere.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::page;
use crate::refusal::{Answer, Dialect, Refusal, render};
use crate::settings::Settings;
use crate::shared::Shared;

/// The address of who asks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// Who asks: what they call themselves, or their address. Their jobs take turns with those of others.
#[derive(Debug, Clone)]
pub(crate) struct Client(pub(crate) String);

const CLIENT: HeaderName = HeaderName::from_static("x-client-id");
const KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Lets a request through, or refuses it in the form of its interface.
pub(crate) async fn guard(State(shared): State<Arc<Shared>>, mut request: Request, next: Next) -> Response {
    let dialect = Dialect::of(request.uri().path());
    let allowed_origin = match check(&shared.settings, &request) {
        Ok(origin) => origin,
        Err(refusal) => return finish(&shared, dialect, refusal.into_response(), None, false),
    };
    let is_page = page::is_part(request.uri().path());
    if request.method() == Method::OPTIONS && allowed_origin.is_some() {
        return finish(&shared, dialect, StatusCode::NO_CONTENT.into_response(), allowed_origin, is_page);
    }
    // The page has no data; it asks for the key.
    if let Some(key) = shared.settings.key.as_ref().filter(|_| !is_page)
        && !shown(request.headers()).iter().any(|shown| key.is(shown))
    {
        let refusal = Refusal::new(StatusCode::UNAUTHORIZED, "key", "the server's key is missing or wrong");
        return finish(&shared, dialect, refusal.into_response(), allowed_origin, false);
    }
    let client = client_of(&request);
    request.extensions_mut().insert(client);
    let response = next.run(request).await;
    finish(&shared, dialect, response, allowed_origin, is_page)
}

fn client_of(request: &Request) -> Client {
    let named = request.headers().get(CLIENT).and_then(|name| name.to_str().ok());
    let named = named.map(str::trim).filter(|name| !name.is_empty() && name.len() <= 64);
    let address = || request.extensions().get::<Peer>().map_or_else(String::new, |peer| peer.0.to_string());
    Client(named.map_or_else(address, str::to_owned))
}

/// Gives the origin of another page that may ask.
fn check(settings: &Settings, request: &Request) -> Answer<Option<HeaderValue>> {
    let headers = request.headers();
    let host = one(headers, &header::HOST)?;
    let host = host.ok_or_else(|| Refusal::bad("the header Host is missing"))?;
    if !is_own_name(&host, &settings.hosts) {
        let why = "the server does not know itself by this name; --host lets it";
        return Err(Refusal::new(StatusCode::MISDIRECTED_REQUEST, "host", why));
    }
    let origin = one(headers, &header::ORIGIN)?;
    let allowed = match &origin {
        None => None,
        Some(own) if *own == format!("http://{host}") => None,
        Some(other) if settings.origins.contains(other) => headers.get(header::ORIGIN).cloned(),
        Some(_) => {
            let why = "pages of this origin may not ask; --cors-origin lets one";
            return Err(Refusal::new(StatusCode::FORBIDDEN, "origin", why));
        }
    };
    let word = |name: &'static str| headers.get(name).and_then(|value| value.to_str().ok());
    let site = word("sec-fetch-site").unwrap_or("none");
    // A link to the page is followed: it has no data, and no other page can look into it.
    let follows_link = request.method() == Method::GET
        && page::is_part(request.uri().path())
        && word("sec-fetch-mode") == Some("navigate")
        && word("sec-fetch-dest") == Some("document");
    if !matches!(site, "same-origin" | "none") && allowed.is_none() && !follows_link {
        return Err(Refusal::new(StatusCode::FORBIDDEN, "origin", "pages of other sites may not ask"));
    }
    check_content(request)?;
    Ok(allowed)
}

/// JSON alone: forms and plain text are what pages of other sites can send unasked.
fn check_content(request: &Request) -> Answer<()> {
    if !matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH | Method::DELETE) {
        return Ok(());
    }
    let headers = request.headers();
    let empty = headers.get(header::CONTENT_LENGTH).is_none_or(|length| length == "0")
        && !headers.contains_key(header::TRANSFER_ENCODING);
    let Some(kind) = one(headers, &header::CONTENT_TYPE)? else {
        if empty {
            return Ok(());
        }
        return Err(media("expected the header Content-Type: application/json"));
    };
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let takes_form = matches!(request.uri().path(), "/v1/images/edits" | "/v1/files");
    match kind.as_str() {
        "application/json" => Ok(()),
        "multipart/form-data" if takes_form => Ok(()),
        _ => Err(media("expected application/json")),
    }
}

fn media(why: &str) -> Refusal {
    Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type", why)
}

/// A header that may stand once, as text.
fn one(headers: &HeaderMap, name: &HeaderName) -> Answer<Option<String>> {
    let mut all = headers.get_all(name).iter();
    let Some(first) = all.next() else { return Ok(None) };
    match first.to_str() {
        Ok(text) if all.next().is_none() => Ok(Some(text.to_owned())),
        _ if name == header::ORIGIN => {
            Err(Refusal::new(StatusCode::FORBIDDEN, "origin", "the header Origin is unclear"))
        }
        _ => Err(Refusal::bad(format!("the header {name} is unclear"))),
    }
}

/// Whether a `Host` is this machine, or a name that was chosen.
fn is_own_name(host: &str, chosen: &[String]) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if port.is_empty() || is_port(port) => address,
            _ => return false,
        },
        None => match host.split_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            Some(_) => return false,
            None => host,
        },
    };
    let is_loopback = name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    is_loopback || name.eq_ignore_ascii_case("localhost") || chosen.iter().any(|own| own.eq_ignore_ascii_case(name))
}

fn is_port(text: &str) -> bool {
    text.strip_prefix(':').is_some_and(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// What a client shows as the key: `Authorization: Bearer KEY`, the password of `Basic`, or `X-Api-Key`.
fn shown(headers: &HeaderMap) -> Vec<String> {
    let mut shown = Vec::new();
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    shown.extend(text(&KEY).map(str::to_owned));
    if let Some((scheme, rest)) = text(&header::AUTHORIZATION).and_then(|value| value.split_once(' ')) {
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            shown.push(rest.to_owned());
        } else if scheme.eq_ignore_ascii_case("basic") {
            let decoded = STANDARD.decode(rest).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            shown.extend(decoded.and_then(|pair| pair.split_once(':').map(|(_, password)| password.to_owned())));
        }
    }
    shown
}

/// Counts the answer, gives it its interface's form, and says what browsers must not do with it.
fn finish(
    shared: &Shared,
    dialect: Dialect,
    response: Response,
    allowed_origin: Option<HeaderValue>,
    is_page: bool,
) -> Response {
    let mut response = render(dialect, response);
    let interface = match dialect {
        _ if is_page => "page",
        Dialect::Native => "native",
        Dialect::A1111 => "a1111",
        Dialect::OpenAi => "openai",
    };
    shared.meter.request(interface, response.status().as_u16());
    let headers = response.headers_mut();
    let policy = "default-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                  object-src 'none'";
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if let Some(origin) = allowed_origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::VARY, HeaderValue::from_static("Origin"));
        headers
            .insert(HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("cross-origin"));
        for (name, value) in [
            (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, PATCH, DELETE"),
            (
                header::ACCESS_CONTROL_ALLOW_HEADERS,
                "authorization, content-type, idempotency-key, last-event-id, x-api-key, x-client-id",
            ),
            (header::ACCESS_CONTROL_EXPOSE_HEADERS, "retry-after, x-chiaro-warnings"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_names_are_answered() {
        let chosen = ["studio.lan".to_owned()];
        for name in
            ["localhost", "LOCALHOST:7860", "127.0.0.1:1", "127.9.9.9", "[::1]", "[::1]:7860", "studio.lan:7860"]
        {
            assert!(is_own_name(name, &chosen), "{name}");
        }
        for name in [
            "evil.example",
            "localhost.evil.example",
            "localhost:7860.evil",
            "192.168.0.2",
            "0.0.0.0:7860",
            "[::]",
            "[::1",
            "[::1]x",
            "[::1]:",
            "",
            "user@localhost",
            "studio.lan.evil",
            "127.0.0.1.nip.io",
            "2130706433",
            "0x7f.1",
        ] {
            assert!(!is_own_name(name, &chosen), "{name}");
        }
    }

    #[test]
    fn keys_are_read_however_they_are_shown() {
        let headers = |name: &HeaderName, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name.clone(), HeaderValue::from_str(value).expect("a value"));
            shown(&headers)
        };
        assert_eq!(headers(&header::AUTHORIZATION, "Bearer abc"), ["abc"]);
        assert_eq!(headers(&header::AUTHORIZATION, "basic dXNlcjphYmM="), ["abc"]);
        assert_eq!(headers(&KEY, "abc"), ["abc"]);
        for wrong in ["abc", "Bearer", "Digest abc", "Basic ***", "Basic YWJj"] {
            assert!(headers(&header::AUTHORIZATION, wrong).is_empty(), "{wrong}");
        }
    }
}

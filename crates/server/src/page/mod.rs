//! The page: three files inside the program, without data.

use std::sync::Arc;

use axum::Router;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::shared::Shared;

const FILES: [(&str, &str, &[u8]); 4] = [
    ("/", "text/html; charset=utf-8", include_bytes!("index.html")),
    ("/page.css", "text/css; charset=utf-8", include_bytes!("page.css")),
    ("/page.js", "text/javascript; charset=utf-8", include_bytes!("page.js")),
    ("/favicon.ico", "image/png", include_bytes!("icon.png")),
];

/// Whether an address is one of the page's files.
pub(crate) fn is_part(path: &str) -> bool {
    FILES.iter().any(|(own, ..)| *own == path)
}

pub(crate) fn router() -> Router<Arc<Shared>> {
    FILES.iter().fold(Router::new(), |router, (path, kind, bytes)| {
        router.route(path, get(move || async move { file(kind, bytes) }))
    })
}

fn file(kind: &'static str, bytes: &'static [u8]) -> Response {
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")], bytes).into_response()
}

//! The demo page's files, inside the binary: these and nothing else, so that no path of a request
//! ever reaches a file system.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH,
};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use sha2::{Digest, Sha256};

/// What the page may do: load from this server, and show pictures that the reader chose.
const POLICY: &str = "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; \
                      base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

struct Asset {
    path: &'static str,
    content_type: &'static str,
    body: &'static [u8],
}

const ASSETS: [Asset; 5] = [
    Asset { path: "/", content_type: HTML, body: include_bytes!("../../static/index.html") },
    Asset {
        path: "/static/style.css",
        content_type: CSS,
        body: include_bytes!("../../static/style.css"),
    },
    Asset {
        path: "/static/app.js",
        content_type: JAVASCRIPT,
        body: include_bytes!("../../static/app.js"),
    },
    Asset {
        path: "/static/draw.js",
        content_type: JAVASCRIPT,
        body: include_bytes!("../../static/draw.js"),
    },
    Asset {
        path: "/static/rle.js",
        content_type: JAVASCRIPT,
        body: include_bytes!("../../static/rle.js"),
    },
];

/// Routes for the page at `/` and its files under `/static/`. Browsers ask again each time and
/// are told `304 Not Modified` while the file is the same.
pub fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    ASSETS.iter().fold(Router::new(), |router, asset| {
        let tag: Arc<str> = tag_of(asset.body).into();
        router.route(
            asset.path,
            get(move |headers: HeaderMap| async move { answer(asset, &tag, &headers) }),
        )
    })
}

/// An entity tag from the content's hash.
fn tag_of(body: &[u8]) -> String {
    let hash = Sha256::digest(body);
    let digits: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("\"{digits}\"")
}

fn answer(asset: &Asset, tag: &str, headers: &HeaderMap) -> Response {
    let common: [(HeaderName, &str); 3] =
        [(ETAG, tag), (CACHE_CONTROL, "no-cache"), (CONTENT_SECURITY_POLICY, POLICY)];
    if has_tag(headers, tag) {
        return (StatusCode::NOT_MODIFIED, common).into_response();
    }
    let body = Bytes::from_static(asset.body);
    (common, [(CONTENT_TYPE, asset.content_type)], body).into_response()
}

/// Whether the client already holds this content: the weak comparison of RFC 9110, 13.1.2.
fn has_tag(headers: &HeaderMap, tag: &str) -> bool {
    headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    async fn ask(method: &str, path: &str, known: Option<&str>) -> Response {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(known) = known {
            request = request.header(IF_NONE_MATCH, known);
        }
        router::<()>().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    async fn text(response: Response) -> String {
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    /// The values of `attribute="…"` in a page.
    fn values<'a>(page: &'a str, attribute: &str) -> Vec<&'a str> {
        let start = format!(" {attribute}=\"");
        page.split(start.as_str()).skip(1).filter_map(|rest| rest.split('"').next()).collect()
    }

    #[tokio::test]
    async fn every_file_comes_with_its_type() {
        for (path, content_type) in [
            ("/", HTML),
            ("/static/style.css", CSS),
            ("/static/app.js", JAVASCRIPT),
            ("/static/draw.js", JAVASCRIPT),
            ("/static/rle.js", JAVASCRIPT),
        ] {
            let response = ask("GET", path, None).await;
            assert_eq!(response.status(), StatusCode::OK, "{path}");
            assert_eq!(response.headers()[CONTENT_TYPE], content_type, "{path}");
            assert_eq!(response.headers()[CACHE_CONTROL], "no-cache", "{path}");
            assert!(!text(response).await.is_empty(), "{path}");
        }
    }

    #[tokio::test]
    async fn nothing_else_is_served() {
        for path in ["/static/", "/static/other.js", "/static/../Cargo.toml", "/index.html"] {
            assert_eq!(ask("GET", path, None).await.status(), StatusCode::NOT_FOUND, "{path}");
        }
        assert_eq!(ask("POST", "/", None).await.status(), StatusCode::METHOD_NOT_ALLOWED);
    }

    #[tokio::test]
    async fn a_known_file_is_not_sent_again() {
        let first = ask("GET", "/", None).await;
        let tag = first.headers()[ETAG].to_str().unwrap().to_owned();
        for known in [tag.clone(), format!("W/{tag}"), format!("\"x\", {tag}"), "*".to_owned()] {
            let response = ask("GET", "/", Some(&known)).await;
            assert_eq!(response.status(), StatusCode::NOT_MODIFIED, "{known}");
            assert_eq!(response.headers()[ETAG], tag.as_str());
            assert_eq!(text(response).await, "");
        }
        assert_eq!(ask("GET", "/", Some("\"x\"")).await.status(), StatusCode::OK);
        let other = ask("GET", "/static/app.js", None).await;
        assert_ne!(other.headers()[ETAG], tag.as_str());
    }

    #[tokio::test]
    async fn the_page_keeps_to_its_policy() {
        let response = ask("GET", "/", None).await;
        let policy = response.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
        assert!(policy.starts_with("default-src 'self';") && !policy.contains("unsafe"));
        let page = text(response).await;
        assert!(!page.contains("<style") && !page.contains(" style="));
        let handlers = page.split(" on").skip(1).filter(|rest| {
            rest.trim_start_matches(|c: char| c.is_ascii_alphabetic()).starts_with('=')
        });
        assert_eq!(handlers.count(), 0);
        assert_eq!(page.matches("<script").count(), page.matches("></script>").count());
        for path in values(&page, "src").into_iter().chain(values(&page, "href")) {
            assert!(path.starts_with('/') || path.starts_with("data:"), "{path}");
        }
    }

    #[tokio::test]
    async fn what_the_page_names_is_there() {
        let page = text(ask("GET", "/", None).await).await;
        let script = text(ask("GET", "/static/app.js", None).await).await;
        for path in values(&page, "src").into_iter().chain(values(&page, "href")) {
            if path.starts_with("/static/") {
                assert_eq!(ask("GET", path, None).await.status(), StatusCode::OK, "{path}");
            }
        }
        let ids = values(&page, "id");
        for id in script.split("element(\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(ids.contains(&id), "{id}");
        }
        for label in values(&page, "for") {
            assert!(ids.contains(&label), "{label}");
        }
    }
}

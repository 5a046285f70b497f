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

/// What the page may do: load scripts, styles and data from this server alone, show pictures that
/// the reader chose, and make no element from text.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
                      connect-src 'self'; img-src 'self' blob:; object-src 'none'; \
                      base-uri 'none'; form-action 'self'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";
const TEXT: &str = "text/plain; charset=utf-8";
const WEBP: &str = "image/webp";

struct Asset {
    path: &'static str,
    content_type: &'static str,
    body: &'static [u8],
}

/// A file of the folder `static/`, under its own name.
macro_rules! file {
    ($name:literal, $content_type:expr) => {
        Asset {
            path: concat!("/static/", $name),
            content_type: $content_type,
            body: include_bytes!(concat!("../../static/", $name)),
        }
    };
}

const ASSETS: &[Asset] = &[
    Asset { path: "/", content_type: HTML, body: include_bytes!("../../static/index.html") },
    file!("style.css", CSS),
    file!("result.css", CSS),
    file!("icon.svg", SVG),
    file!("api.js", JAVASCRIPT),
    file!("app.js", JAVASCRIPT),
    file!("chips.js", JAVASCRIPT),
    file!("colours.js", JAVASCRIPT),
    file!("controls.js", JAVASCRIPT),
    file!("curl.js", JAVASCRIPT),
    file!("dom.js", JAVASCRIPT),
    file!("downloads.js", JAVASCRIPT),
    file!("draw.js", JAVASCRIPT),
    file!("entities.js", JAVASCRIPT),
    file!("input.js", JAVASCRIPT),
    file!("judge.js", JAVASCRIPT),
    file!("labels.js", JAVASCRIPT),
    file!("overlay.js", JAVASCRIPT),
    file!("picture.js", JAVASCRIPT),
    file!("progress.js", JAVASCRIPT),
    file!("rle.js", JAVASCRIPT),
    file!("run.js", JAVASCRIPT),
    file!("sse.js", JAVASCRIPT),
    file!("stage.js", JAVASCRIPT),
    file!("state.js", JAVASCRIPT),
    file!("timings.js", JAVASCRIPT),
    file!("words.js", JAVASCRIPT),
    file!("examples/CREDITS", TEXT),
    file!("examples/astronaut.webp", WEBP),
    file!("examples/astronaut-small.webp", WEBP),
    file!("examples/camera.webp", WEBP),
    file!("examples/camera-small.webp", WEBP),
    file!("examples/cat.webp", WEBP),
    file!("examples/cat-small.webp", WEBP),
    file!("examples/coffee.webp", WEBP),
    file!("examples/coffee-small.webp", WEBP),
    file!("examples/hopper.webp", WEBP),
    file!("examples/hopper-small.webp", WEBP),
    file!("examples/together.webp", WEBP),
    file!("examples/together-small.webp", WEBP),
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
            ("/static/icon.svg", SVG),
            ("/static/examples/CREDITS", TEXT),
            ("/static/examples/cat.webp", WEBP),
        ] {
            let response = ask("GET", path, None).await;
            assert_eq!(response.status(), StatusCode::OK, "{path}");
            assert_eq!(response.headers()[CONTENT_TYPE], content_type, "{path}");
            assert_eq!(response.headers()[CACHE_CONTROL], "no-cache", "{path}");
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert!(!body.is_empty(), "{path}");
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
        assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"));
        let page = text(response).await;
        assert!(!page.contains("<style") && !page.contains(" style="));
        let handlers = page.split(" on").skip(1).filter(|rest| {
            rest.trim_start_matches(|c: char| c.is_ascii_alphabetic()).starts_with('=')
        });
        assert_eq!(handlers.count(), 0);
        assert_eq!(page.matches("<script").count(), page.matches("></script>").count());
        for path in values(&page, "src").into_iter().chain(values(&page, "href")) {
            assert!(path.starts_with(['/', '#']) || path.starts_with("data:"), "{path}");
        }
    }

    #[tokio::test]
    async fn what_the_page_names_is_there() {
        let page = text(ask("GET", "/", None).await).await;
        for path in values(&page, "src").into_iter().chain(values(&page, "href")) {
            if path.starts_with("/static/") {
                assert_eq!(ask("GET", path, None).await.status(), StatusCode::OK, "{path}");
            }
        }
        let ids = values(&page, "id");
        for script in scripts() {
            let named = script.split("element(\"").skip(1);
            for id in named.filter_map(|rest| rest.split('"').next()) {
                assert!(ids.contains(&id), "{id}");
            }
        }
        for label in values(&page, "for") {
            assert!(ids.contains(&label), "{label}");
        }
    }

    /// The scripts' text.
    fn scripts() -> impl Iterator<Item = &'static str> {
        let scripts = ASSETS.iter().filter(|asset| asset.content_type == JAVASCRIPT);
        scripts.map(|asset| std::str::from_utf8(asset.body).unwrap())
    }

    #[tokio::test]
    async fn what_scripts_and_examples_name_is_there() {
        let page = text(ask("GET", "/", None).await).await;
        let imported = scripts().flat_map(|script| script.split(" from \"./").skip(1));
        let imported = imported.filter_map(|rest| rest.split('"').next());
        let shown = values(&page, "data-picture").into_iter();
        let shown = shown.map(|name| format!("examples/{name}.webp"));
        for name in imported.map(str::to_owned).chain(shown) {
            let path = format!("/static/{name}");
            assert_eq!(ask("GET", &path, None).await.status(), StatusCode::OK, "{path}");
        }
    }

    #[test]
    fn the_examples_are_small() {
        let pictures = ASSETS.iter().filter(|asset| asset.content_type == WEBP);
        assert!(pictures.map(|asset| asset.body.len()).sum::<usize>() <= 600 * 1024);
    }
}

//! Pulling packs from a hub: a small server of our own stands in for it.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use riveg::pack::{
    Cache, FileState, Manifest, PackError, PullError, PullOptions, Token, pull, verify,
};
use sha2::{Digest, Sha256};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the hub does with a file, and what it saw.
#[derive(Clone, Default)]
struct Hub {
    content: Arc<Mutex<Vec<u8>>>,
    /// How many bytes an answer delivers before its connection breaks.
    cut: Arc<Mutex<Option<usize>>>,
    /// How many answers are 503 before the first good one.
    busy: Arc<Mutex<usize>>,
    seen: Arc<Mutex<Vec<(String, HeaderMap)>>>,
}

impl Hub {
    fn with(content: &[u8]) -> Self {
        let hub = Self::default();
        *hub.content.lock().unwrap() = content.to_vec();
        hub
    }

    /// Serves on a thread that lasts as long as the test; the address.
    fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        listener.set_nonblocking(true).unwrap();
        let router = Router::new().fallback(answer).with_state(self.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                axum::serve(listener, router).await.unwrap();
            });
        });
        address
    }

    fn requests(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    fn header(&self, request: usize, name: header::HeaderName) -> Option<String> {
        let seen = self.seen.lock().unwrap();
        seen[request].1.get(name).map(|value| value.to_str().unwrap().to_owned())
    }
}

async fn answer(State(hub): State<Hub>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    hub.seen.lock().unwrap().push((path.clone(), request.headers().clone()));
    match path.rsplit('/').next().unwrap() {
        "absent" => return StatusCode::NOT_FOUND.into_response(),
        "private" if request.headers().get(header::AUTHORIZATION).is_none() => {
            return StatusCode::UNAUTHORIZED.into_response();
        }
        "moved" => return redirect(&format!("/elsewhere/{COMMIT}/file")),
        "downgraded" => return redirect("http://hub.example/file"),
        "circle" => return redirect(&path),
        _ => {}
    }
    {
        let mut busy = hub.busy.lock().unwrap();
        if *busy > 0 {
            *busy -= 1;
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
    }
    file(&hub, request.headers())
}

fn redirect(location: &str) -> Response {
    (StatusCode::FOUND, [(header::LOCATION, location)]).into_response()
}

fn file(hub: &Hub, headers: &HeaderMap) -> Response {
    let content = hub.content.lock().unwrap().clone();
    let tag = format!("\"{}\"", hash(&content));
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap());
    let fits = text(header::IF_RANGE).is_none_or(|validator| validator == tag);
    let begin = text(header::RANGE).filter(|_| fits);
    let begin = begin.map(|range| range["bytes=".len()..range.len() - 1].parse::<usize>().unwrap());
    let rest = content[begin.unwrap_or(0)..].to_vec();
    let mut response =
        Response::builder().header(header::ETAG, tag).header(header::CONTENT_LENGTH, rest.len());
    if let Some(begin) = begin {
        let range = format!("bytes {begin}-{}/{}", content.len() - 1, content.len());
        response =
            response.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, range);
    }
    let body = match hub.cut.lock().unwrap().filter(|cut| *cut < rest.len()) {
        None => Body::from(rest),
        Some(cut) => {
            let good = Ok(Bytes::from(rest[..cut].to_vec()));
            // An error that comes at once may overtake the bytes before it.
            let broken = async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Err(std::io::Error::other("cut"))
            };
            Body::from_stream(stream::iter([good]).chain(stream::once(broken)))
        }
    };
    response.body(body).unwrap()
}

fn hash(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A pack whose only large file comes from `source`, and a cache.
struct Fixture {
    directory: tempfile::TempDir,
    options: PullOptions,
}

impl Fixture {
    fn new(endpoint: &str, source: &str, extra: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(&directory.path().join("cache"))).unwrap();
        let options = PullOptions {
            cache,
            hub_endpoint: endpoint.to_owned(),
            token: None,
            offline: false,
            attempts: 3,
            backoff: Duration::ZERO,
        };
        let fixture = Self { directory, options };
        fs::create_dir_all(fixture.pack().join("net")).unwrap();
        fs::write(fixture.pack().join("net/config.json"), "{}").unwrap();
        fixture.manifest(source, extra);
        fixture
    }

    /// With a file `name` of a hub's repository.
    fn hub(endpoint: &str, name: &str, extra: &str) -> Self {
        let source =
            format!(r#"{{ hub = "owner/model", revision = "{COMMIT}", file = "{name}" }}"#);
        Self::new(endpoint, &source, extra)
    }

    fn pack(&self) -> PathBuf {
        self.directory.path().join("pack")
    }

    fn manifest(&self, source: &str, extra: &str) {
        let role = |name| format!("{name} = {{ architecture = \"a\", path = \"net\" }}\n");
        let roles: String = ["tagger", "entailer", "grounder", "segmenter"].map(role).concat();
        let text = format!(
            r#"name = "mine"
version = "1"
licence = "none"
entailment_threshold = 0.5
expander = {{ architecture = "type" }}
{roles}
[[files]]
path = "net/config.json"

[[files]]
path = "net/model.bin"
source = {source}
{extra}
"#
        );
        fs::write(self.pack().join("pack.toml"), text).unwrap();
    }

    fn pull(&self) -> Result<PathBuf, PullError> {
        pull(&self.pack(), &self.options, &()).map_err(|error| match error {
            PackError::Pull { source, .. } => source,
            other => panic!("{other}"),
        })
    }

    fn offline(&self) -> Result<PathBuf, PullError> {
        let options = PullOptions { offline: true, ..self.options.clone() };
        pull(&self.pack(), &options, &()).map_err(|error| match error {
            PackError::Pull { source, .. } => source,
            other => panic!("{other}"),
        })
    }
}

fn content() -> Vec<u8> {
    (0..300_000u32).flat_map(u32::to_le_bytes).collect()
}

fn assert_whole(folder: &Path, content: &[u8]) {
    assert!(fs::read(folder.join("net/model.bin")).unwrap() == content);
    let manifest = Manifest::read(folder).unwrap();
    let reports = verify(folder, &manifest).unwrap();
    assert!(reports.iter().all(|report| report.state == FileState::Good), "{reports:?}");
    assert_eq!(reports.len(), 2);
}

#[test]
fn what_is_pulled_is_a_pack_and_is_fetched_once() {
    let hub = Hub::with(&content());
    let fixture = Fixture::hub(&hub.serve(), "file", "");
    let before = fs::read(fixture.pack().join("pack.toml")).unwrap();
    let unresolved = fixture.options.cache.resolve(&fixture.pack()).unwrap_err().to_string();
    assert!(unresolved.contains("riveg pack pull mine"), "{unresolved}");
    let folder = fixture.pull().unwrap();
    assert_whole(&folder, &content());
    assert_eq!(fixture.options.cache.resolve(&fixture.pack()).unwrap(), folder);
    assert_eq!(fs::read(fixture.pack().join("pack.toml")).unwrap(), before);
    assert_eq!(hub.seen.lock().unwrap()[0].0, format!("/owner/model/resolve/{COMMIT}/file"));
    fixture.pull().unwrap();
    assert_eq!(fixture.offline().unwrap(), folder);
    assert_eq!(hub.requests(), 1);
    // Another version of the manifest wants another pull.
    fixture.manifest(&format!(r#"{{ url = "{}/file" }}"#, fixture.options.hub_endpoint), "");
    assert!(fixture.options.cache.resolve(&fixture.pack()).is_err());
}

#[test]
fn a_broken_connection_is_resumed() {
    let hub = Hub::with(&content());
    *hub.cut.lock().unwrap() = Some(500_000);
    let fixture = Fixture::hub(&hub.serve(), "file", "");
    assert_whole(&fixture.pull().unwrap(), &content());
    assert!(hub.requests() >= 3);
    assert_eq!(hub.header(0, header::RANGE), None);
    assert_ne!(hub.header(1, header::RANGE).unwrap(), "bytes=0-");
    assert!(hub.header(1, header::IF_RANGE).is_some());
}

#[test]
fn a_later_pull_goes_on_where_an_earlier_one_was_killed() {
    let hub = Hub::with(&content());
    *hub.cut.lock().unwrap() = Some(0);
    let fixture = Fixture::hub(&hub.serve(), "file", "");
    assert!(matches!(
        fixture.pull(),
        Err(PullError::Short { found: 0, .. } | PullError::Connection(_))
    ));
    assert_eq!(hub.requests(), 3, "three attempts without a byte");
    let net = fixture.directory.path().join("cache/packs/mine/net");
    fs::write(net.join(".model.bin.part"), &content()[..1000]).unwrap();
    fs::write(net.join(".model.bin.tag"), format!("\"{}\"", hash(&content()))).unwrap();
    *hub.cut.lock().unwrap() = None;
    assert_whole(&fixture.pull().unwrap(), &content());
    assert_eq!(hub.header(3, header::RANGE).as_deref(), Some("bytes=1000-"));
}

#[test]
fn what_changed_meanwhile_is_fetched_from_its_beginning() {
    let hub = Hub::with(&content());
    let fixture = Fixture::hub(&hub.serve(), "file", "");
    let net = fixture.directory.path().join("cache/packs/mine/net");
    fs::create_dir_all(&net).unwrap();
    fs::write(net.join(".model.bin.part"), "of another version").unwrap();
    fs::write(net.join(".model.bin.tag"), "\"old\"").unwrap();
    assert_whole(&fixture.pull().unwrap(), &content());
}

#[test]
fn busy_servers_are_asked_again_but_not_for_ever() {
    let hub = Hub::with(&content());
    *hub.busy.lock().unwrap() = 2;
    let fixture = Fixture::hub(&hub.serve(), "file", "");
    assert_whole(&fixture.pull().unwrap(), &content());
    let hub = Hub::with(&content());
    *hub.busy.lock().unwrap() = 3;
    let fixture = Fixture::hub(&hub.serve(), "file", "");
    assert!(matches!(fixture.pull(), Err(PullError::Status { status: 503, .. })));
}

#[test]
fn another_hash_or_size_is_refused_and_leaves_nothing() {
    let hub = Hub::with(&content());
    let address = hub.serve();
    let wrong = format!("sha256 = \"{}\"", hash(b"another"));
    let fixture = Fixture::hub(&address, "file", &wrong);
    assert!(matches!(fixture.pull(), Err(PullError::WrongHash { .. })));
    let net = fixture.directory.path().join("cache/packs/mine/net");
    let left: Vec<_> = fs::read_dir(net).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["config.json"]);
    let fixture = Fixture::hub(&address, "file", "bytes = 7");
    let expected = content().len() as u64;
    assert!(
        matches!(fixture.pull(), Err(PullError::WrongSize { found, expected: 7 }) if found == expected)
    );
}

#[test]
fn a_source_that_changed_after_its_first_use_is_refused() {
    let hub = Hub::with(&content());
    let fixture = Fixture::hub(&hub.serve(), "file", "");
    let folder = fixture.pull().unwrap();
    *hub.content.lock().unwrap() = vec![7; content().len()];
    // Unchanged here: nothing is fetched.
    fixture.pull().unwrap();
    fs::remove_file(folder.join("net/model.bin")).unwrap();
    assert!(matches!(fixture.pull(), Err(PullError::WrongHash { .. })));
    *hub.content.lock().unwrap() = content();
    assert_whole(&fixture.pull().unwrap(), &content());
}

#[test]
fn a_file_that_was_tampered_with_in_the_cache_is_replaced() {
    let hub = Hub::with(&content());
    let fixture = Fixture::hub(&hub.serve(), "file", "");
    let folder = fixture.pull().unwrap();
    fs::write(folder.join("net/model.bin"), vec![7; content().len()]).unwrap();
    fs::write(folder.join("net/planted.bin"), "unlisted").unwrap();
    assert_whole(&fixture.pull().unwrap(), &content());
}

#[test]
fn offline_means_the_cache_alone() {
    let hub = Hub::with(&content());
    let fixture = Fixture::hub(&hub.serve(), "file", "");
    let error = fixture.offline().unwrap_err();
    assert!(error.to_string().contains("--offline"), "{error}");
    assert_eq!(hub.requests(), 0);
}

#[test]
fn refusals_are_told_apart() {
    let hub = Hub::with(&content());
    let address = hub.serve();
    let error = Fixture::hub(&address, "absent", "").pull().unwrap_err();
    assert!(matches!(error, PullError::NotFound { .. }), "{error}");
    let mut private = Fixture::hub(&address, "private", "");
    let error = private.pull().unwrap_err().to_string();
    assert!(error.contains("HF_TOKEN") && error.contains("401"), "{error}");
    assert_eq!(hub.requests(), 2, "no refusal is asked for twice");
    private.options.token = Some(Token::new("hf_secret".to_owned()));
    assert_whole(&private.pull().unwrap(), &content());
    let sent = hub.header(2, header::AUTHORIZATION);
    assert_eq!(sent.as_deref(), Some("Bearer hf_secret"));
}

#[test]
fn redirects_are_followed_to_https_only() {
    let hub = Hub::with(&content());
    let address = hub.serve();
    assert_whole(&Fixture::hub(&address, "moved", "").pull().unwrap(), &content());
    for name in ["downgraded", "circle"] {
        let error = Fixture::hub(&address, name, "").pull().unwrap_err();
        assert!(matches!(error, PullError::Redirect { .. }), "{name}: {error}");
    }
}

#[test]
fn a_token_goes_to_hub_repositories_only() {
    let hub = Hub::with(&content());
    let address = hub.serve();
    let mut fixture = Fixture::new(&address, &format!(r#"{{ url = "{address}/file" }}"#), "");
    fixture.options.token = Some(Token::new("hf_secret".to_owned()));
    assert_whole(&fixture.pull().unwrap(), &content());
    assert_eq!(hub.header(0, header::AUTHORIZATION), None);
}

#[test]
fn files_of_this_machine_are_taken_over_and_missed_with_a_note() {
    let fixture =
        Fixture::new("http://localhost:1", r#"{ path = "../own.bin" }"#, r#"note = "train it""#);
    let error = fixture.offline().unwrap_err().to_string();
    assert!(error.contains("own.bin") && error.contains("train it"), "{error}");
    fs::write(fixture.directory.path().join("own.bin"), content()).unwrap();
    assert_whole(&fixture.offline().unwrap(), &content());
}

#[test]
fn two_pulls_at_once_do_not_disturb_each_other() {
    let hub = Hub::with(&content());
    *hub.cut.lock().unwrap() = Some(200_000);
    let fixture = Fixture::hub(&hub.serve(), "file", "");
    std::thread::scope(|scope| {
        let pulls = [(); 3].map(|()| scope.spawn(|| fixture.pull().unwrap()));
        for pull in pulls {
            assert_whole(&pull.join().unwrap(), &content());
        }
    });
    let whole =
        hub.seen.lock().unwrap().iter().filter(|(_, h)| !h.contains_key(header::RANGE)).count();
    assert_eq!(whole, 1, "the second found what the first had fetched");
}

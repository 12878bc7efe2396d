use super::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A program with three circuits, and a command that adds to them.
fn backend() -> Backend {
    let control: Control = Arc::new(|name, body| {
        Box::pin(async move {
            match name.as_str() {
                "add" => {
                    let n = body["n"].as_u64().ok_or(ControlError::Body("`n` is a number"))?;
                    Ok(serde_json::json!({ "circuits": 3 + n }))
                }
                "later" => Err(ControlError::NotNow("not before the start")),
                _ => Err(ControlError::Unknown),
            }
        })
    });
    Backend {
        metrics: Arc::new(|| "obol_circuits 3\n".to_owned()),
        state: Arc::new(|| serde_json::json!({ "circuits": 3 })),
        control: Some(control),
        subject: None,
    }
}

struct Setup {
    gateway: Gateway,
    token: String,
    directory: tempfile::TempDir,
}

async fn setup() -> Setup {
    let directory = tempfile::tempdir().expect("a directory");
    let options = Options {
        listen: "127.0.0.1:0".parse().expect("an address"),
        allow_remote: false,
        token: directory.path().join("token"),
    };
    let gateway = Gateway::start(options, backend()).await.expect("starts");
    let token = std::fs::read_to_string(directory.path().join("token")).expect("a token was made");
    Setup {
        gateway,
        token: token.trim().to_owned(),
        directory,
    }
}

/// The whole answer to a GET with these extra header lines.
async fn get_page(address: SocketAddr, path: &str, headers: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("connects");
    let request = format!("GET {path} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    answer
}

#[tokio::test]
async fn metrics_are_free_and_the_state_needs_the_token() {
    let Setup {
        gateway,
        token,
        directory: _directory,
    } = setup().await;
    let host = format!("Host: {}\r\n", gateway.address());
    let metrics = get_page(gateway.address(), "/metrics", &host).await;
    assert!(
        metrics.starts_with("HTTP/1.1 200") && metrics.ends_with("obol_circuits 3\n"),
        "{metrics}"
    );
    let wrong = [
        "".to_owned(),
        "Authorization: Bearer x\r\n".to_owned(),
        format!("Authorization: Basic {token}\r\n"),
    ];
    for wrong in wrong {
        let refused = get_page(gateway.address(), "/state", &format!("{host}{wrong}")).await;
        assert!(
            refused.starts_with("HTTP/1.1 401") && !refused.contains("circuits"),
            "{refused}"
        );
    }
    let right = format!("{host}Authorization: Bearer {token}\r\n");
    let state = get_page(gateway.address(), "/state", &right).await;
    assert!(
        state.starts_with("HTTP/1.1 200") && state.contains("\"circuits\": 3"),
        "{state}"
    );
}

/// The whole answer to a POST.
async fn post_to(address: SocketAddr, path: &str, headers: &str, body: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("connects");
    let length = body.len();
    let request =
        format!("POST {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    answer
}

#[tokio::test]
async fn a_command_needs_the_token_and_a_good_body() {
    let Setup {
        gateway,
        token,
        directory: _directory,
    } = setup().await;
    let address = gateway.address();
    let host = format!("Host: {address}\r\n");
    let right = format!("{host}Authorization: Bearer {token}\r\n");
    let refused = post_to(address, "/control/add", &host, "{\"n\": 1}").await;
    assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
    let done = post_to(address, "/control/add", &right, "{\"n\": 1}").await;
    assert!(
        done.starts_with("HTTP/1.1 200") && done.contains("\"circuits\": 4"),
        "{done}"
    );
    for (path, body, status) in [
        ("/control/add", "", "400"),
        ("/control/add", "{\"n\": ", "400"),
        ("/control/later", "", "409"),
        ("/control/nothing", "", "404"),
    ] {
        let answer = post_to(address, path, &right, body).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains("error"),
            "{answer}"
        );
    }
    let got = get_page(address, "/control/add", &right).await;
    assert!(got.starts_with("HTTP/1.1 405"), "{got}");
    let long = post_to(address, "/control/add", &right, &" ".repeat(20_000)).await;
    assert!(long.starts_with("HTTP/1.1 413"), "{long}");
}

#[tokio::test]
async fn a_name_that_was_pointed_at_this_machine_gets_nothing() {
    let Setup {
        gateway,
        directory: _directory,
        ..
    } = setup().await;
    for host in [
        "evil.example",
        "evil.example:80",
        "127.0.0.1.evil.example",
        "localhost.evil.example:1",
    ] {
        let answer = get_page(gateway.address(), "/metrics", &format!("Host: {host}\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{host}: {answer}");
    }
    for host in [
        "localhost",
        "localhost:9035",
        "127.0.0.1",
        "127.0.0.1:9035",
        "[::1]:9035",
        "[::1]",
    ] {
        let answer = get_page(gateway.address(), "/metrics", &format!("Host: {host}\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{host}: {answer}");
    }
}

#[tokio::test]
async fn an_address_that_others_reach_is_refused_unless_allowed() {
    let directory = tempfile::tempdir().expect("a directory");
    let listen = "0.0.0.0:0".parse().expect("an address");
    let mut options = Options {
        listen,
        allow_remote: false,
        token: directory.path().join("token"),
    };
    let start = |options| Gateway::start(options, backend());
    assert!(matches!(
        start(options.clone()).await,
        Err(GatewayError::NotLoopback(_))
    ));
    options.allow_remote = true;
    start(options).await.expect("allowed").stop().await;
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_names_it() {
    let Setup { gateway, directory, .. } = setup().await;
    let options = Options {
        listen: gateway.address(),
        allow_remote: false,
        token: directory.path().join("token"),
    };
    let again = Gateway::start(options, backend()).await;
    let error = again.expect_err("taken").to_string();
    assert!(error.contains(&gateway.address().to_string()), "{error}");
}

#[tokio::test]
async fn stopping_ends_it_even_while_a_client_keeps_its_connection_open() {
    let Setup {
        gateway,
        directory: _directory,
        ..
    } = setup().await;
    let address = gateway.address();
    let idle = tokio::net::TcpStream::connect(address).await.expect("connects");
    gateway.stop().await;
    assert!(
        tokio::net::TcpStream::connect(address).await.is_err(),
        "nothing listens any more"
    );
    drop(idle);
}

#[cfg(unix)]
#[test]
fn the_token_file_is_its_owners_alone_and_is_kept() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("token");
    let made = Token::load_or_make(&path).expect("made");
    assert_eq!(
        std::fs::metadata(&path).expect("a file").permissions().mode() & 0o777,
        0o600
    );
    let text = std::fs::read_to_string(&path).expect("a file");
    assert!(made.is(text.trim()) && Token::load_or_make(&path).expect("kept").is(text.trim()));
    assert!(!made.is("") && !made.is(&text.trim()[1..]));
    std::fs::write(&path, "short").expect("written");
    assert!(matches!(Token::load_or_make(&path), Err(TokenError::Short { .. })));
}

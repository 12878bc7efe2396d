//! A stock arti-client on a network of ours.

mod network;

use std::sync::Arc;

use arti_client::TorClient;
use arti_client::config::TorClientConfigBuilder;
use network::{Network, PATIENCE, REQUEST, origin};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tor_rtcompat::PreferredRuntime;

/// A client of the network that has bootstrapped, and the directory with its files.
async fn client(network: &Network) -> (Arc<TorClient<PreferredRuntime>>, tempfile::TempDir) {
    let files = tempfile::tempdir().unwrap();
    let text = network
        .authority
        .arti_network()
        .toml_with_storage(&files.path().join("state"), &files.path().join("cache"));
    let builder: TorClientConfigBuilder = toml::from_str(&text).unwrap();
    let config = builder.build().unwrap();
    let runtime = PreferredRuntime::current().unwrap();
    let builder = TorClient::with_runtime(runtime).config(config);
    let starting = builder.create_bootstrapped();
    let client = tokio::time::timeout(PATIENCE, starting)
        .await
        .expect("bootstrapping takes too long")
        .unwrap();
    (client, files)
}

/// A page fetched through the client.
async fn fetch(client: &TorClient<PreferredRuntime>, address: std::net::SocketAddr) -> Vec<u8> {
    let fetching = async {
        let mut stream = client
            .connect((address.ip().to_string(), address.port()))
            .await
            .unwrap();
        stream.write_all(REQUEST).await.unwrap();
        stream.flush().await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        answer
    };
    tokio::time::timeout(PATIENCE, fetching)
        .await
        .expect("the page takes too long")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stock_client_bootstraps_through_our_relays_and_fetches_a_page() {
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .try_init();
    let network = Network::start(3).await;
    let page: &'static [u8] = Box::leak(vec![b'x'; 300_000].into_boxed_slice());
    let server = origin(page).await;
    let (client, _files) = client(&network).await;
    assert_eq!(client.bootstrap_status().as_frac(), 1.0);
    let answer = fetch(&client, server).await;
    assert!(answer.starts_with(b"HTTP/1.0 200 OK"));
    assert!(answer.ends_with(page));
}

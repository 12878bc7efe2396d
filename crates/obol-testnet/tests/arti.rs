//! A stock arti-client on a network of ours.

mod network;

use network::{Network, fetch, origin};

#[tokio::test(flavor = "multi_thread")]
async fn a_stock_client_bootstraps_through_our_relays_and_fetches_a_page() {
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .try_init();
    let network = Network::start(3).await;
    let page: &'static [u8] = Box::leak(vec![b'x'; 300_000].into_boxed_slice());
    let server = origin(page).await;
    let (client, _files) = network.arti().await;
    assert_eq!(client.bootstrap_status().as_frac(), 1.0);
    let answer = fetch(&client, server).await;
    assert!(answer.starts_with(b"HTTP/1.0 200 OK"));
    assert!(answer.ends_with(page));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stock_client_finds_paths_in_a_network_of_seven() {
    let network = Network::start(7).await;
    let server = origin(b"seven").await;
    let (client, _files) = network.arti().await;
    for _ in 0..5 {
        let isolated = client.isolated_client();
        assert!(fetch(&isolated, server).await.ends_with(b"seven"));
    }
}

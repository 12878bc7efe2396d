//! SOCKS 4, 4a and 5, with Tor's extensions RESOLVE and RESOLVE_PTR (socks-extensions).

use std::io;

use arti_client::ErrorKind;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tor_socksproto::{
    Buffer, Handshake as _, NextStep, SocksAddr, SocksAuth, SocksCmd, SocksProxyHandshake, SocksRequest, SocksStatus,
};
use tracing::debug;

use super::isolation::StreamIsolation;
use super::{Dialect, Failure, Heard, Wanted};

/// Reads a request. `None`: it was refused, or the application left.
pub(super) async fn hear(app: &mut TcpStream) -> io::Result<Option<Heard>> {
    let mut handshake = SocksProxyHandshake::new();
    let mut buffer = Buffer::new();
    let (request, early) = loop {
        let step = handshake.step(&mut buffer);
        match step.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))? {
            NextStep::Send(data) => app.write_all(&data).await?,
            NextStep::Recv(mut more) => {
                let got = app.read(more.buf()).await?;
                more.note_received(got)
                    .map_err(|error| io::Error::new(io::ErrorKind::UnexpectedEof, error))?;
            }
            NextStep::Finished(finished) => break finished.into_output_and_vec(),
        }
    };
    let isolation = match request.auth() {
        SocksAuth::Socks4(user) => StreamIsolation::Socks4(user.clone()),
        SocksAuth::Username(user, password) => StreamIsolation::Socks5(user.clone(), password.clone()),
        _ => StreamIsolation::None,
    };
    let host = request.addr().to_string();
    let wanted = match (request.command(), request.addr()) {
        (SocksCmd::CONNECT, _) => Wanted::Connect {
            host,
            port: request.port(),
        },
        (SocksCmd::RESOLVE, _) => Wanted::Resolve { host },
        (SocksCmd::RESOLVE_PTR, SocksAddr::Ip(address)) => Wanted::ResolvePtr { address: *address },
        (SocksCmd::RESOLVE_PTR, SocksAddr::Hostname(_)) => match host.parse() {
            Ok(address) => Wanted::ResolvePtr { address },
            Err(_) => {
                reply(app, &request, SocksStatus::ADDRTYPE_NOT_SUPPORTED, None).await?;
                return Ok(None);
            }
        },
        (command, _) => {
            debug!(%command, "an application asked for what Tor cannot do");
            reply(app, &request, SocksStatus::COMMAND_NOT_SUPPORTED, None).await?;
            return Ok(None);
        }
    };
    Ok(Some(Heard {
        wanted,
        isolation,
        dialect: Dialect::Socks(Box::new(request)),
        early,
    }))
}

/// Answers a request.
pub(super) async fn reply(
    app: &mut TcpStream,
    request: &SocksRequest,
    status: SocksStatus,
    found: Option<SocksAddr>,
) -> io::Result<()> {
    let answer = request
        .reply(status, found.as_ref())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    app.write_all(&answer).await
}

/// The status that says this failure in SOCKS (RFC 1928, section 6; proposal 304 for onion services).
pub(super) fn status(failure: Failure) -> SocksStatus {
    let kind = match failure {
        Failure::Tor(kind) => kind,
        // Not allowed by our own rules: `paths = "only"`.
        Failure::NoPaidPath => return SocksStatus::NOT_ALLOWED,
    };
    match kind {
        ErrorKind::RemoteNetworkFailed => SocksStatus::NETWORK_UNREACHABLE,
        ErrorKind::RemoteHostNotFound | ErrorKind::RemoteHostResolutionFailed => SocksStatus::HOST_UNREACHABLE,
        ErrorKind::RemoteConnectionRefused => SocksStatus::CONNECTION_REFUSED,
        ErrorKind::ExitTimeout | ErrorKind::RemoteNetworkTimeout | ErrorKind::TorNetworkTimeout => {
            SocksStatus::TTL_EXPIRED
        }
        ErrorKind::ForbiddenStreamTarget | ErrorKind::ExitPolicyRejected => SocksStatus::NOT_ALLOWED,
        ErrorKind::InvalidStreamTarget => SocksStatus::ADDRTYPE_NOT_SUPPORTED,
        ErrorKind::OnionServiceNotFound => SocksStatus::HS_DESC_NOT_FOUND,
        ErrorKind::OnionServiceAddressInvalid => SocksStatus::HS_BAD_ADDRESS,
        ErrorKind::OnionServiceMissingClientAuth => SocksStatus::HS_MISSING_CLIENT_AUTH,
        ErrorKind::OnionServiceWrongClientAuth => SocksStatus::HS_WRONG_CLIENT_AUTH,
        ErrorKind::OnionServiceNotRunning | ErrorKind::OnionServiceProtocolViolation => SocksStatus::HS_DESC_INVALID,
        ErrorKind::OnionServiceConnectionFailed => SocksStatus::HS_INTRO_FAILED,
        _ => SocksStatus::GENERAL_FAILURE,
    }
}

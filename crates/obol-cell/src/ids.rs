//! Names of things: all fixed-length bytes, none of them secret.

use crate::wire::{DecodeError, Reader};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $n:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $n]);

        impl $name {
            /// Its length on the wire, bytes.
            pub const LEN: usize = $n;

            /// Takes it off the front of `r`.
            pub fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
                Ok($name(r.array()?))
            }

            /// Its bytes.
            pub const fn as_bytes(&self) -> &[u8; $n] {
                &self.0
            }
        }

        impl AsRef<[u8]> for $name {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }

        impl std::fmt::Debug for $name {
            /// The first four bytes in hex: enough to tell two apart in a log.
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!(stringify!($name), "("))?;
                for b in &self.0[..4] {
                    write!(f, "{b:02x}")?;
                }
                write!(f, "..)")
            }
        }
    };
}

id!(
    /// The escrow account E: its Ed25519 public key (also its account on the ledger).
    EscrowId, 32
);
id!(
    /// A relay: the Ed25519 identity proved in the link handshake.
    PeerId, 32
);
id!(
    /// A ledger: the SHA-256 of its network passphrase.
    NetworkId, 32
);
id!(
    /// An account on the ledger: its Ed25519 public key.
    AccountId, 32
);
id!(
    /// A transaction on the ledger: its hash.
    TransactionId, 32
);
id!(
    /// The memo (a hash memo) of all ledger payments by which one payer settles what it owes by trust: random, its own, the same
    /// for all its payees. It says to them whose payment it is, and nothing to anybody else.
    SettlementMemo, 32
);
id!(
    /// An Ed25519 signature.
    Signature, 64
);

/// The asset that all amounts are in: code (padded with zeros, as in XDR) and issuer. 44 bytes on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Asset {
    /// `alphanum4` codes are padded to twelve as well.
    pub code: [u8; 12],
    /// The issuing account.
    pub issuer: [u8; 32],
}

impl Asset {
    /// Its length on the wire, bytes.
    pub const LEN: usize = 44;

    /// Takes it off the front of `r`.
    pub fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Asset {
            code: r.array()?,
            issuer: r.array()?,
        })
    }

    /// As on the wire.
    pub fn to_bytes(&self) -> [u8; 44] {
        let mut out = [0; 44];
        out[..12].copy_from_slice(&self.code);
        out[12..].copy_from_slice(&self.issuer);
        out
    }
}

impl std::fmt::Debug for Asset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let code = self.code.split(|b| *b == 0).next().unwrap_or(&[]);
        write!(f, "{}:{:?}", code.escape_ascii(), AccountId(self.issuer))
    }
}

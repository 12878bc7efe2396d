//! Price terms, escrow rules, offers, and the terms that an escrow's second signer is derived from.

use crate::ids::{AccountId, Asset, EscrowId, NetworkId, PeerId, Signature};
use crate::units::{ForwardPpm, PricePer64KiB, Step, Stroops};
use crate::wire::{DecodeError, Reader, Writer};

/// What a payee asks of an escrow (settlement.md). Times in seconds. 20 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EscrowRules {
    /// The least deposit.
    pub min_deposit: Stroops,
    /// The shortest life, from offer to expiry.
    pub min_life: u32,
    /// The longest life.
    pub max_life: u32,
    /// Service on the escrow stops this long before its expiry.
    pub margin: u32,
}

impl EscrowRules {
    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(EscrowRules {
            min_deposit: r.stroops()?,
            min_life: r.u32()?,
            max_life: r.u32()?,
            margin: r.u32()?,
        })
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        w.stroops(self.min_deposit)
            .u32(self.min_life)
            .u32(self.max_life)
            .u32(self.margin);
    }
}

/// A relay's price terms: the same for every client all day (H6, 2.23). 103 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tariff {
    /// What carrying 64 KiB costs.
    pub price: PricePer64KiB,
    /// The fee for passing money on.
    pub forward_ppm: ForwardPpm,
    /// The most it passes on, per 64 KiB bought here (H1).
    pub forward_ceiling: PricePer64KiB,
    /// The largest step it sells.
    pub max_step: Step,
    /// The ledger.
    pub network: NetworkId,
    /// The asset.
    pub asset: Asset,
    /// What it asks of an escrow.
    pub rules: EscrowRules,
}

impl Tariff {
    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Tariff {
            price: PricePer64KiB::from_rung(r.u8()?)?,
            forward_ppm: ForwardPpm::new(r.u32()?)?,
            forward_ceiling: PricePer64KiB::from_rung(r.u8()?)?,
            max_step: r.step()?,
            network: NetworkId::read(r)?,
            asset: Asset::read(r)?,
            rules: EscrowRules::read(r)?,
        })
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        w.u8(self.price.rung())
            .u32(self.forward_ppm.get())
            .u8(self.forward_ceiling.rung())
            .step(self.max_step);
        w.bytes(&self.network.0).bytes(&self.asset.to_bytes());
        self.rules.write(w);
    }
}

/// "Will you be payee of an escrow like this?" 132 bytes. From a client in `OfferEscrow`, from a relay in `LegOffer`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EscrowOffer {
    /// A fresh key of the payer; the account must not exist yet.
    pub escrow: EscrowId,
    /// The ledger.
    pub network: NetworkId,
    /// The asset.
    pub asset: Asset,
    /// S0 = (current ledger + 60) << 32: all transactions of E after its opening have sequences from here on.
    pub s0: u64,
    /// T, unix seconds: from then on the payer can take everything back.
    pub expiry: u64,
    /// What will be paid in.
    pub deposit: Stroops,
}

impl EscrowOffer {
    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(EscrowOffer {
            escrow: EscrowId::read(r)?,
            network: NetworkId::read(r)?,
            asset: Asset::read(r)?,
            s0: r.u64()?,
            expiry: r.u64()?,
            deposit: r.stroops()?,
        })
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        w.bytes(&self.escrow.0)
            .bytes(&self.network.0)
            .bytes(&self.asset.to_bytes());
        w.u64(self.s0).u64(self.expiry).stroops(self.deposit);
    }
}

/// The payee's yes to an offer. 168 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EscrowAcceptance {
    /// The escrow that was offered.
    pub escrow: EscrowId,
    /// r: the payee's one-time signer on E, derived from the [`EscrowTerms`] (C1).
    pub signer: AccountId,
    /// Where the claims will pay to; part of the terms.
    pub payee_account: AccountId,
    /// The minimum deposit that r was derived with; part of the terms.
    pub min_deposit: Stroops,
    /// r's signature on the refund transaction.
    pub refund: Signature,
}

impl EscrowAcceptance {
    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(EscrowAcceptance {
            escrow: EscrowId::read(r)?,
            signer: AccountId::read(r)?,
            payee_account: AccountId::read(r)?,
            min_deposit: r.stroops()?,
            refund: Signature::read(r)?,
        })
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        w.bytes(&self.escrow.0)
            .bytes(&self.signer.0)
            .bytes(&self.payee_account.0);
        w.stroops(self.min_deposit).bytes(&self.refund.0);
    }
}

/// What the first message on an escrow repeats, so that the payee needs no memory of the offer (2.19). 56 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OpeningTerms {
    /// See [`EscrowOffer::s0`].
    pub s0: u64,
    /// See [`EscrowOffer::expiry`].
    pub expiry: u64,
    /// See [`EscrowAcceptance::payee_account`].
    pub payee_account: AccountId,
    /// See [`EscrowAcceptance::min_deposit`].
    pub min_deposit: Stroops,
}

impl OpeningTerms {
    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(OpeningTerms {
            s0: r.u64()?,
            expiry: r.u64()?,
            payee_account: AccountId::read(r)?,
            min_deposit: r.stroops()?,
        })
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        w.u64(self.s0)
            .u64(self.expiry)
            .bytes(&self.payee_account.0)
            .stroops(self.min_deposit);
    }
}

/// Everything that r is derived from, and with it every transaction of the escrow after its opening (settlement.md).
///
/// Both ends hold exactly this; nobody ever signs bytes that somebody else supplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EscrowTerms {
    /// The ledger.
    pub network: NetworkId,
    /// The asset.
    pub asset: Asset,
    /// The payee's relay identity.
    pub payee: PeerId,
    /// The payee's account.
    pub payee_account: AccountId,
    /// E.
    pub escrow: EscrowId,
    /// S0.
    pub s0: u64,
    /// T, unix seconds.
    pub expiry: u64,
    /// The payee's minimum deposit at the time of the offer.
    pub min_deposit: Stroops,
}

impl EscrowTerms {
    /// The terms that `offer` to `payee` has once the payee named its account and minimum deposit.
    pub fn new(offer: &EscrowOffer, payee: PeerId, payee_account: AccountId, min_deposit: Stroops) -> Self {
        EscrowTerms {
            network: offer.network,
            asset: offer.asset,
            payee,
            payee_account,
            escrow: offer.escrow,
            s0: offer.s0,
            expiry: offer.expiry,
            min_deposit,
        }
    }

    /// The part that the first message on the escrow repeats.
    pub fn opening(&self) -> OpeningTerms {
        OpeningTerms {
            s0: self.s0,
            expiry: self.expiry,
            payee_account: self.payee_account,
            min_deposit: self.min_deposit,
        }
    }

    /// Puts the terms together again from what a first message repeats.
    pub fn from_opening(opening: &OpeningTerms, escrow: EscrowId, tariff: &Tariff, payee: PeerId) -> Self {
        EscrowTerms {
            network: tariff.network,
            asset: tariff.asset,
            payee,
            payee_account: opening.payee_account,
            escrow,
            s0: opening.s0,
            expiry: opening.expiry,
            min_deposit: opening.min_deposit,
        }
    }

    /// Appends all fields: network, asset, payee, payee account, E, S0, expiry, minimum deposit (196 bytes).
    pub fn write(&self, w: &mut Writer) {
        w.bytes(&self.network.0)
            .bytes(&self.asset.to_bytes())
            .bytes(&self.payee.0);
        w.bytes(&self.payee_account.0).bytes(&self.escrow.0);
        w.u64(self.s0).u64(self.expiry).stroops(self.min_deposit);
    }

    /// Takes all fields off the front of `r`.
    pub fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(EscrowTerms {
            network: NetworkId::read(r)?,
            asset: Asset::read(r)?,
            payee: PeerId::read(r)?,
            payee_account: AccountId::read(r)?,
            escrow: EscrowId::read(r)?,
            s0: r.u64()?,
            expiry: r.u64()?,
            min_deposit: r.stroops()?,
        })
    }
}

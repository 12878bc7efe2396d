use super::*;
use crate::crypto::tor1::{BODY_LEN, ClientLayers};
use proptest::prelude::*;
use tor_cell::relaycell::extend::{CcRequest, CircRequestExt, CircResponseExt};

fn bytes<const N: usize>(text: &str) -> [u8; N] {
    hex::decode(text).unwrap().try_into().unwrap()
}

fn relay() -> RelayOnionKeys {
    RelayOnionKeys::new([1; 20], [2; 32], OnionKey::from_secret([3; 32]), None, [4; 32])
}

fn target() -> Target {
    Target {
        id: [2; 32],
        b: *relay().current().public(),
    }
}

/// A client's onion skin with the extensions `message`.
fn skin(message: &[u8]) -> (Client, Vec<u8>) {
    let asked = Asked {
        congestion_control: true,
    };
    Client::start_with(target(), [7; 32], message, CIRCUIT_EXTEND, asked)
}

const OFFER: Offer = Offer {
    congestion_control: Some(31),
};

/// Whether a relay with `ours` opens cells that a client with `theirs` made.
fn agree(ours: &CircuitKeys, theirs: &CircuitKeys) -> bool {
    let mut client = ClientLayers::new();
    client.push(theirs);
    let mut cell = [1; BODY_LEN];
    client.originate(0, &mut cell).unwrap();
    let forward = ours.relay_layers().0.open(&mut cell).is_some();
    let mut cell = [1; BODY_LEN];
    ours.relay_layers().1.originate(&mut cell);
    forward && client.open(&mut cell).is_some() && ours.kh() == theirs.kh()
}

/// Published with tor-proto (crypto/handshake/ntor_v3.rs), from the reference implementation of proposal 332.
#[test]
fn skins_replies_and_keys_are_those_of_the_reference() {
    let b = bytes("4051daa5921cfa2a1c27b08451324919538e79e788a81b38cbed097a5dff454a");
    let id = bytes("9fad2af287ef942632833d21f946c6260c33fae6172b60006e86e4a6911753a2");
    let x = bytes("b825a3719147bcbe5fb1d0b0fcb9c09e51948048e2e3283d2ab7b45b5ef38b49");
    let y = bytes("4865a5b7689dafd978f529291c7171bc159be076b92186405d13220b80e2a053");
    let keys = RelayOnionKeys::new([0; 20], id, OnionKey::from_secret(b), None, [9; 32]);
    let target = Target {
        id,
        b: *keys.current().public(),
    };

    let (client, request) = Client::start_with(target, x, b"hello world", b"xyzzy", Asked::default());
    assert_eq!(
        hex::encode(&request),
        "9fad2af287ef942632833d21f946c6260c33fae6172b60006e86e4a6911753a2f8307a2bc1870b00b828bb74dbb8fd88\
         e632a6375ab3bcd1ae706aaa8b6cdd1d252fe9ae91264c91d4ecb8501f79d0387e34ad8ca0f7c995184f7d11d5da4f46\
         3bebd9151fd3b47c180abc9e044d53565f04d82bbb3bebed3d06cea65db8be9c72b68cd461942088502f67"
    );
    let (reply, ours, said) = respond_with(&keys, &request, y, b"xyzzy", |message| {
        Ok((b"Hola Mundo".to_vec(), message.to_vec()))
    })
    .unwrap();
    assert_eq!(said, b"hello world");
    assert_eq!(
        hex::encode(&reply),
        "4bf4814326fdab45ad5184f5518bd7fae25dc59374062698201a50a22954246d2fc5f8773ca824542bc6cf6f57c7c29b\
         bf4e5476461ab130c5b18ab0a91276651202c3e1e87c0d32054c"
    );
    let (theirs, answer) = client.finish_with(&reply).unwrap();
    assert_eq!(answer, b"Hola Mundo");
    let expected: [u8; KEY_MATERIAL_LEN] = bytes(
        "9c19b631fd94ed86a817e01f6c80b0743a43f5faebd39cfaa8b00fa8bcc65c3bfeaa403d91acbd68a821bf6ee8504602\
         b094a254392a07737d5662768c7a9fb1b2814bb34780eaee6e867c773e28c212ead563e98a1cd5d5b4576f5e",
    );
    let expected = CircuitKeys::from_kdf(&expected);
    assert!(agree(&ours, &expected) && agree(&expected, &theirs));
}

#[test]
fn congestion_control_is_agreed_when_it_is_asked_and_offered() {
    for (asked, offered) in [(false, None), (false, Some(31)), (true, None), (true, Some(31))] {
        let asked = Asked {
            congestion_control: asked,
        };
        let offer = Offer {
            congestion_control: offered,
        };
        let (client, request) = Client::start(target().id, target().b, [7; 32], asked);
        let (reply, ours, agreed) = respond(&relay(), &request, [8; 32], offer).unwrap();
        let (theirs, heard) = client.finish(&reply).unwrap();
        assert!(agree(&ours, &theirs));
        assert_eq!(agreed, heard);
        assert_eq!(agreed.congestion_control, offered.filter(|_| asked.congestion_control));
    }
}

#[test]
fn what_arti_encodes_is_read_and_what_we_answer_is_read_by_arti() {
    let mut message = Vec::new();
    CircRequestExt::write_many_onto(&[CircRequestExt::CcRequest(CcRequest::default())], &mut message).unwrap();
    let agreed = negotiate(&message, OFFER).unwrap();
    assert_eq!(agreed.congestion_control, Some(31));
    let answer = CircResponseExt::decode(&reply_message(agreed)).unwrap();
    let [CircResponseExt::CcResponse(response)] = answer.as_slice() else {
        panic!("not one CC_RESPONSE: {answer:?}");
    };
    assert_eq!(response.sendme_inc(), 31);
    assert_eq!(CircResponseExt::decode(&reply_message(Agreed::default())).unwrap(), []);
}

#[test]
fn unknown_extensions_are_ignored_and_the_first_of_a_kind_counts() {
    let on = Some(31);
    for (message, expected) in [
        (&[0][..], None),
        (&[1, 200, 3, 1, 2, 3], None),
        (&[2, 200, 0, 1, 0], on),
        // A body that is longer than any known one, and one that comes twice.
        (&[2, 1, 2, 9, 9, 1, 0], on),
        // An empty list of subprotocols asks for nothing; a second list is not looked at.
        (&[3, 1, 0, 3, 0, 3, 2, 2, 6], on),
    ] {
        assert_eq!(
            negotiate(message, OFFER).unwrap().congestion_control,
            expected,
            "{message:?}"
        );
    }
}

#[test]
fn a_subprotocol_that_was_not_advertised_fails_the_handshake() {
    for (message, protocol, version) in [
        (&[1, 3, 2, 2, 6][..], 2, 6),
        (&[2, 1, 0, 3, 2, 2, 6], 2, 6),
        (&[1, 3, 4, 0, 4, 2, 4], 0, 4),
        (&[1, 3, 4, 2, 4, 0, 4], 2, 4),
    ] {
        let (_, request) = skin(message);
        let refused = respond(&relay(), &request, [8; 32], OFFER).unwrap_err();
        assert_eq!(refused, Refused::Subprotocol { protocol, version });
    }
    let (_, request) = skin(&[1, 3, 1, 2]);
    assert_eq!(
        respond(&relay(), &request, [8; 32], OFFER).unwrap_err(),
        Refused::Extensions
    );
}

#[test]
fn a_list_that_cannot_be_read_fails_the_handshake() {
    for message in [&[][..], &[1], &[1, 1], &[1, 1, 1], &[2, 1, 0], &[0, 0], &[255, 1, 0]] {
        let (_, request) = skin(message);
        let refused = respond(&relay(), &request, [8; 32], OFFER).unwrap_err();
        assert_eq!(refused, Refused::Extensions, "{message:?}");
    }
}

#[test]
fn an_answer_to_what_was_not_asked_is_refused() {
    let (client, request) = Client::start(target().id, target().b, [7; 32], Asked::default());
    let (reply, _, ()) = respond_with(&relay(), &request, [8; 32], CIRCUIT_EXTEND, |_| {
        Ok((vec![1, CC_RESPONSE, 1, 31], ()))
    })
    .unwrap();
    assert_eq!(client.finish(&reply).unwrap_err(), BadReply::Extensions);
}

#[test]
fn the_previous_onion_key_is_accepted_as_long_as_it_is_kept() {
    let (old, new) = (OnionKey::from_secret([5; 32]), OnionKey::from_secret([6; 32]));
    let during = RelayOnionKeys::new([1; 20], [2; 32], new.clone(), Some(old.clone()), [4; 32]);
    let after = RelayOnionKeys::new([1; 20], [2; 32], new.clone(), None, [4; 32]);
    for key in [&old, &new] {
        let (client, request) = Client::start([2; 32], *key.public(), [7; 32], Asked::default());
        let (reply, ours, _) = respond(&during, &request, [8; 32], OFFER).unwrap();
        assert!(agree(&ours, &client.finish(&reply).unwrap().0));
    }
    let (_, request) = Client::start([2; 32], *old.public(), [7; 32], Asked::default());
    assert_eq!(
        respond(&after, &request, [8; 32], OFFER).unwrap_err(),
        Refused::NotForUs
    );
}

#[test]
fn skins_for_another_relay_the_junk_key_or_a_low_point_are_refused() {
    let ours = target().b;
    let junk = *OnionKey::from_secret([4; 32]).public();
    for (id, b) in [([9; 32], ours), ([2; 32], junk), ([2; 32], [9; 32])] {
        let (_, request) = Client::start(id, b, [7; 32], Asked::default());
        assert_eq!(
            respond(&relay(), &request, [8; 32], OFFER).unwrap_err(),
            Refused::NotForUs
        );
    }
    let (_, mut request) = Client::start([2; 32], ours, [7; 32], Asked::default());
    request[64..96].fill(0);
    assert_eq!(
        respond(&relay(), &request, [8; 32], OFFER).unwrap_err(),
        Refused::NotForUs
    );
}

#[test]
fn what_is_too_short_is_refused_by_either_side() {
    for len in 0..REQUEST_MIN_LEN {
        let refused = respond(&relay(), &vec![1; len], [8; 32], OFFER).unwrap_err();
        assert_eq!(
            refused,
            Refused::Length {
                got: len,
                expected: 128
            }
        );
    }
    for len in 0..REPLY_MIN_LEN {
        let (client, _) = skin(&[0]);
        assert!(matches!(client.finish(&vec![1; len]), Err(BadReply::Length { .. })));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn an_altered_skin_is_refused(at in any::<prop::sample::Index>(), bit in 0..7_u32) {
        let (_, mut request) = skin(&[1, 1, 0]);
        let at = at.index(request.len());
        request[at] ^= 1 << bit;
        prop_assert_eq!(respond(&relay(), &request, [8; 32], OFFER).unwrap_err(), Refused::NotForUs);
    }

    #[test]
    fn an_altered_reply_is_not_authentic(at in any::<prop::sample::Index>(), bit in 0..7_u32) {
        let (client, request) = skin(&[1, 1, 0]);
        let (mut reply, _, _) = respond(&relay(), &request, [8; 32], OFFER).unwrap();
        let at = at.index(reply.len());
        reply[at] ^= 1 << bit;
        prop_assert_eq!(client.finish(&reply).unwrap_err(), BadReply::NotAuthentic);
    }

    #[test]
    fn noise_is_refused(noise in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(respond(&relay(), &noise, [8; 32], OFFER).is_err());
    }

    #[test]
    fn any_authentic_message_is_answered_or_refused(message in prop::collection::vec(any::<u8>(), 0..60)) {
        let (client, request) = skin(&message);
        if let Ok((reply, _, agreed)) = respond(&relay(), &request, [8; 32], OFFER) {
            prop_assert_eq!(client.finish(&reply).unwrap().1, agreed);
        }
    }
}

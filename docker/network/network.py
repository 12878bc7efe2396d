"""What the local network of compose.yaml needs before and while it runs.

    network.py setup             keys, money and configurations of everybody, once
    network.py authority FILE    a C Tor authority
    network.py answers URL       exit code 0 if that answers with 200
    network.py gathered          waits until a consensus lists everybody, and the relays have escrows to each other
    network.py origin DIRECTORY  something to download

Where everybody is follows from OBOL_NET, the first three bytes of the network's addresses; files are below OBOL_NET_ROOT.
"""

import concurrent.futures
import functools
import http.server
import json
import os
import pathlib
import re
import secrets
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request

NET = os.environ.get("OBOL_NET", "10.77.0")
ROOT = pathlib.Path(os.environ.get("OBOL_NET_ROOT", "/net"))
# By number, as compose.yaml has them.
AUTHORITIES = {"authority1": 11, "authority2": 12, "authority3": 13}
LEDGER = f"http://{NET}.21:8000"
# Address, price in stroops per 64 KiB, exit policy.
RELAYS = {
    "relay1": (31, 20, "reject *:*"),
    "relay2": (32, 10, "reject *:*"),
    "relay3": (33, 50, "accept *:*"),
}
CLIENT = 41
ORIGIN = 51
OR_PORT, DIR_PORT = 9001, 9030
CODE = "OBOL"
# What the origin serves.
FILE_BYTES = 32 << 20


def say(text):
    print(text, flush=True)


def get(url, patience=10):
    """The body of an answer with 200; None if there is none."""
    try:
        with urllib.request.urlopen(url, timeout=patience) as answer:
            return answer.read() if answer.status == 200 else None
    except (OSError, urllib.error.HTTPError):
        return None


def private(path):
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def write(path, text, mode=0o600):
    """As a whole or not at all."""
    new = path.with_name(path.name + ".new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as out:
        out.write(text)
    new.replace(path)


# ---- money


class Money:
    """An asset whose issuer can change nothing about it any more, and accounts that hold it."""

    def __init__(self, passphrase):
        from stellar_sdk import Asset, Keypair

        self.passphrase = passphrase
        self.issuer = Keypair.random()
        self.asset = Asset(CODE, self.issuer.public_key)
        self.holders = []

    def account(self, path, units):
        """A new key file; its account is to have lumens, a trust line, and so many units of the asset."""
        from stellar_sdk import Keypair

        key = Keypair.random()
        self.holders.append((key, units))
        write(path, key.secret + "\n")

    def found(self):
        """All accounts in one ledger, all they hold in another; nothing can be frozen or taken back after that."""
        from stellar_sdk import AuthorizationFlag, ChangeTrust, Payment, SetOptions

        keys = [self.issuer, *(key for key, _ in self.holders)]
        urls = [f"{LEDGER}/friendbot?addr={key.public_key}" for key in keys]
        with concurrent.futures.ThreadPoolExecutor(len(urls)) as pool:
            if None in pool.map(lambda url: get(url, 60), urls):
                raise SystemExit("network: the ledger's friendbot gives nothing")
        operations = []
        for key, units in self.holders:
            operations.append(ChangeTrust(self.asset, source=key.public_key))
            if units:
                operations.append(Payment(key.public_key, self.asset, str(units)))
        operations.append(SetOptions(set_flags=AuthorizationFlag.AUTHORIZATION_IMMUTABLE))
        self.submit(operations, keys)

    def submit(self, operations, signers):
        from stellar_sdk import Server, TransactionBuilder

        server = Server(LEDGER)
        source = server.load_account(self.issuer.public_key)
        builder = TransactionBuilder(source, self.passphrase, base_fee=1000).set_timeout(120)
        for operation in operations:
            builder.append_operation(operation)
        envelope = builder.build()
        for signer in signers:
            envelope.sign(signer)
        if not server.submit_transaction(envelope)["successful"]:
            raise SystemExit("network: the founding transaction failed")


# ---- C Tor


COMMON = """\
TestingTorNetwork 1
UseDefaultFallbackDirs 0
AssumeReachable 1
EnforceDistinctSubnets 0
ExtendAllowPrivateAddresses 1
Schedulers Vanilla
SocksPort 0
"""


def tor(torrc_file):
    """The command; the data directory is beside the configuration."""
    data = pathlib.Path(torrc_file).parent / "data"
    return ["tor", "-f", str(torrc_file), "--defaults-torrc", "/dev/null", "--DataDirectory", str(data)]


def run(command, **rest):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, **rest)
    if done.returncode != 0:
        raise SystemExit(f"network: {command[0]} ended with {done.returncode}: {done.stdout.decode(errors='replace')}")


def authority_keys(name, number):
    """Its long-term keys; returns what the others must know of it."""
    data = private(ROOT / name / "data")
    keys = private(data / "keys")
    command = ["tor-gencert", "--create-identity-key", "--passphrase-fd", "0", "-m", "12"]
    command += ["-a", f"{NET}.{number}:{DIR_PORT}"]
    # It cannot be asked to do without a passphrase.
    run(command, cwd=keys, input=b"local only\n")
    certificate = (keys / "authority_certificate").read_text()
    v3 = re.search(r"^fingerprint ([0-9A-F]{40})$", certificate, re.M)[1]
    # Who it is as a relay follows from keys that tor makes when it is asked for that; for now it believes an authority that nobody reaches.
    nobody = "0" * 39 + "1"
    file = ROOT / name / "torrc"
    write(
        file,
        f"{COMMON}Nickname {name}\nAddress {NET}.{number}\nORPort {NET}.{number}:{OR_PORT}\n"
        f"DirAuthority none orport=1 no-v2 v3ident={nobody} {NET}.{number}:1 {nobody}\n",
    )
    run([*tor(file), "--list-fingerprint", "--quiet"])
    rsa = (data / "fingerprint").read_text().split()[1]
    ed = (data / "fingerprint-ed25519").read_text().split()[1]
    return {"name": name, "address": f"{NET}.{number}", "v3": v3, "rsa": rsa, "ed": ed}


def torrc(authority, authorities):
    lines = "".join(
        f"DirAuthority {a['name']} orport={OR_PORT} no-v2 v3ident={a['v3']} {a['address']}:{DIR_PORT} {a['rsa']}\n"
        for a in authorities
    )
    ours = ",".join(f"{NET}.{number}" for number, _, _ in RELAYS.values())
    # A relay becomes a guard after days; here the first one is at once, and no other ever. An authority is a relay too, one that
    # is not paid: it claims little, so that few paths lead through it; nobody measures what relays claim, and it is believed
    # (maxunmeasuredbw). Clients learn how fast circuits are, and on one machine would learn to give up too early. Onion services change
    # their directories with the shared random value, whose days would be minutes long here.
    return f"""{COMMON}{lines}Nickname {authority['name']}
ContactInfo none
Address {authority['address']}
ORPort {authority['address']}:{OR_PORT}
DirPort {authority['address']}:{DIR_PORT}
Log notice stdout
ExitRelay 0
ExitPolicy reject *:*
RelayBandwidthRate 100 KBytes
RelayBandwidthBurst 20 MBytes
MaxAdvertisedBandwidth 100 KBytes
AuthoritativeDirectory 1
V3AuthoritativeDirectory 1
V3AuthVotingInterval 30
V3AuthVoteDelay 4
V3AuthDistDelay 4
V3AuthNIntervalsValid 10
TestingV3AuthInitialVotingInterval 30
TestingV3AuthInitialVoteDelay 4
TestingV3AuthInitialDistDelay 4
TestingDirAuthVoteGuard {NET}.31
TestingDirAuthVoteGuardIsStrict 1
TestingDirAuthVoteHSDir {ours}
TestingDirAuthVoteHSDirIsStrict 1
TestingMinExitFlagThreshold 0
AuthDirVoteStableGuaranteeMinUptime 1
AuthDirMaxServersPerAddr 0
AuthDirSharedRandomness 0
ConsensusParams cc_alg=2 bwauthpid=1 ExtendByEd25519ID=1 cbtmintimeout=5000 hsdir_interval=12 maxunmeasuredbw=1000000
"""


# ---- Obol


def ledger_section(passphrase, asset):
    return f"""[payments.ledger]
network_passphrase = {json.dumps(passphrase)}
asset = "{asset.code}:{asset.issuer}"
urls = ["{LEDGER}"]
poll = "500ms"
"""


def node_toml(name, authorities, ledger):
    number, price, policy = RELAYS[name]
    of_authorities = "".join(
        f"""
[[directory.authorities]]
name = "{a['name']}"
address = "{a['address']}:{DIR_PORT}"
v3_identity = "{a['v3']}"
"""
        for a in authorities
    )
    # A rate of its own: what relays would measure on one machine is the machine.
    return f"""nickname = "{name}"
data_directory = "data"
log = "info"
shutdown_wait = "5s"

[or]
listen = "{NET}.{number}:{OR_PORT}"
allow_private_addresses = true

[exit]
policy = ["{policy}"]
reject_private = false

[bandwidth]
rate = "100 MiB"
self_test = false

[directory]
publish = true
{of_authorities}
[payments]
price_per_64_kib = {price}

{ledger}max_age = "60s"

[payments.escrows]
close_delay = "0s"

[payments.peers]
deposit = "40"
random_delay = "0s"
batch_period = "0s"

# Prometheus reads it, from an address of its own.
[gateway]
listen = "{NET}.{number}:9035"
allow_remote = true
"""


def client_toml(authorities, ledger):
    ids = ", ".join(f'"{a["v3"]}"' for a in authorities)
    addresses = ", ".join(f'["{a["address"]}:{DIR_PORT}"]' for a in authorities)
    fallbacks = "".join(
        f'  {{ rsa_identity = "{a["rsa"]}", ed_identity = "{a["ed"]}", orports = ["{a["address"]}:{OR_PORT}"] }},\n'
        for a in authorities
    )
    return f"""state_directory = "state"

# The address is the private network's; compose.yaml lets this machine in, and nobody else.
[socks]
listen = "{NET}.{CLIENT}:9150"
allow_remote = true

# The dashboard, for this machine as well; and Prometheus.
[gateway]
listen = "{NET}.{CLIENT}:9035"
allow_remote = true

[payments]
pay = "always"
max_price_per_64_kib = 100
deposit = "50"
random_delay = "0s"

{ledger}
[tor.tor_network]
authorities = {{ v3idents = [{ids}], uploads = [{addresses}], downloads = [{addresses}], votes = [{addresses}] }}
fallback_caches = [
{fallbacks}]

[tor.address_filter]
allow_local_addrs = true

[tor.path_rules]
ipv4_subnet_family_prefix = 33
ipv6_subnet_family_prefix = 129
"""


# ---- commands


def setup():
    root = get(f"{LEDGER}/")
    if root is None:
        raise SystemExit(f"network: no ledger at {LEDGER}")
    passphrase = json.loads(root)["network_passphrase"]
    # The last file that is written: where it is, everything is.
    marker = ROOT / "client" / "made.json"
    if marker.exists():
        made = json.loads(marker.read_text())
        if made["network_passphrase"] != passphrase:
            raise SystemExit(
                "network: this ledger is another one than the network was made with: remove all volumes and begin anew"
            )
        say("network: everything is there")
        return
    # What an earlier try left behind is of no use to anybody.
    for name in (*AUTHORITIES, *RELAYS, "client", "origin"):
        for left in private(ROOT / name).iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    say("network: keys of the authorities")
    authorities = [authority_keys(name, number) for name, number in AUTHORITIES.items()]
    for authority in authorities:
        write(ROOT / authority["name"] / "torrc", torrc(authority, authorities))
    say("network: money")
    money = Money(passphrase)
    ledger = ledger_section(passphrase, money.asset)
    for name in RELAYS:
        data = private(ROOT / name / "data")
        money.account(data / "payee.seed", 0)
        money.account(data / "capital.seed", 10000)
        write(ROOT / name / "node.toml", node_toml(name, authorities, ledger))
    state = private(ROOT / "client" / "state")
    money.account(state / "wallet.seed", 1000)
    money.found()
    write(ROOT / "client" / "client.toml", client_toml(authorities, ledger))
    with open(private(ROOT / "origin") / "file", "wb") as out:
        out.write(secrets.token_bytes(FILE_BYTES))
    write(marker, json.dumps({"network_passphrase": passphrase, "issuer": money.issuer.public_key}) + "\n")
    say(f"network: made; the asset is {CODE}:{money.issuer.public_key}")


def authority(torrc_file):
    """In this process's place."""
    os.execvp("tor", tor(torrc_file))


def listed():
    """Flags of everybody in the newest consensus, by nickname; nothing if there is no consensus."""
    number = AUTHORITIES["authority1"]
    body = get(f"http://{NET}.{number}:{DIR_PORT}/tor/status-vote/current/consensus")
    found = re.findall(r"^r (\S+) .*\n(?:a .*\n)*s (.*)$", (body or b"").decode(), re.M)
    return {name: flags.split() for name, flags in found}


def lend_to_each_other():
    """Whether every relay has an escrow to every other one: a circuit that was built before is paid as far as its first hop."""
    wanted = f'obol_paid_peers{{escrow="open"}} {len(RELAYS) - 1}'.encode()
    pages = [get(f"http://{NET}.{number}:9035/metrics") or b"" for number, _, _ in RELAYS.values()]
    return all(wanted in page.splitlines() for page in pages)


def gathered(patience=300):
    end = time.monotonic() + patience
    before = None
    while time.monotonic() < end:
        flags = listed()
        running = sorted(name for name, of_it in flags.items() if "Running" in of_it)
        if running != before:
            say(f"network: the consensus lists {', '.join(running) or 'nobody'}")
            before = running
        wanted = {"relay1": "Guard", "relay2": "Running", "relay3": "Exit"}
        everybody = set(running) >= {*RELAYS, *AUTHORITIES}
        if everybody and all(flag in flags[name] for name, flag in wanted.items()) and lend_to_each_other():
            return
        time.sleep(1)
    raise SystemExit(f"network: after {patience} s not everybody is in the consensus, or has an escrow to the other relays")


def origin(directory):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=directory)
    http.server.ThreadingHTTPServer((f"{NET}.{ORIGIN}", 8080), handler).serve_forever()


def main():
    match sys.argv[1:]:
        case ["setup"]:
            setup()
        case ["authority", torrc_file]:
            authority(torrc_file)
        case ["answers", url]:
            sys.exit(0 if get(url) is not None else 1)
        case ["gathered"]:
            gathered()
        case ["origin", directory]:
            origin(directory)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()

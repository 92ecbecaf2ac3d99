"""Every constant of the wire: sizes in bytes, kinds, codes, limits. PROTOCOL.md holds the same tables; a test compares them.

Integers are big-endian. Nothing here is computed at import but sums, so a board pays for names only.
"""

VERSION = 1

# --- sizes -----------------------------------------------------------------------------------------------------------
KEY_BYTES = 32  # X25519 keys, AES-256 keys, SHA-256 digests, psks
TAG_BYTES = 16  # AES-GCM tag
FP_BYTES = 15  # 120 bits of SHA-256(public key): 24 base32 characters, no padding
FP_CHARS = 24
SID_BYTES = 16
ACCOUNT_BYTES = 8
EPOCH_BYTES = 16
CHALLENGE_BYTES = 16
MAC_BYTES = 16  # HMAC-SHA256, truncated
HINT_BYTES = 8
SECRET_BYTES = 16  # the secret of a join code
PASSWORD_BYTES = 16  # an MQTT password before it is written as base32
PIN_BYTES = 32  # SHA-256 of the broker's DER certificate

# --- control plane: hello, message 1, message 2 --------------------------------------------------------------------------
HELLO_BYTES = 21  # ver1 epoch16 features4
HEADER_BYTES = 12  # ver1 type1 kind1 0 hint8; of message 2: ver1 type1 0 0 H(M1)[:8]
M1_BYTES = 512  # one size, so that sizes tell the broker nothing
M1_PAYLOAD_BYTES = 388  # 512 - header 12 - mac1 16 - e 32 - s 48 - tag 16
M2_BYTES = 256
M2_PAYLOAD_BYTES = 196  # 256 - header 12 - e 32 - tag 16

TYPE_M1 = 1
TYPE_M2 = 2

KIND_CONNECT = 0  # the psk belongs to the topic's sender
KIND_GRANT = 1  # the hint names a grant
KIND_ENROL = 0  # at a relay: enrol with a code
KIND_MAKE_CODE = 1  # at a relay: make a new device code
KIND_LOOK_UP = 2  # at a relay: which public key enrolled with this code
KIND_RETIRE = 3  # at a relay: revoke the device of this public key, which enrolled with a code of ours

PURPOSE_CONNECT = 1
PURPOSE_RELAY = 2
PURPOSE_GIVE = 3

# --- TLV types of message payloads; bit 7 = critical (unknown: refuse) ---------------------------------------------------
TLV_END = 0x00  # zero padding
TLV_SESSIONS_LEFT = 0x01
TLV_NAME = 0x02
TLV_STREAMS = 0x03
TLV_TIME = 0x04
TLV_CODE = 0x81
TLV_RELAY = 0x82
TLV_SID = 0x83
TLV_ACCOUNT = 0x84
TLV_MAX_RECORD = 0x85
TLV_WINDOW = 0x86
TLV_PARTY_KEY = 0x88
TLV_PASSWORD = 0x89
TLV_PIN = 0x8A
TLV_BROKER = 0x8B
TLV_SECRET = 0x8C
TLV_PUBLIC = 0x8D
TLV_CODE_ID = 0x8E
TLV_CAVEATS = 0x8F
TLV_GRANT = 0x90

# --- grants and policy -----------------------------------------------------------------------------------------------------
CAVEAT_HOLDER = 1  # fingerprint15
CAVEAT_SERVICES = 2  # names, with commas between
CAVEAT_UNTIL = 3  # seconds since 1970, 4
CAVEAT_STREAMS = 4  # at once, 1
CAVEAT_BYTES = 5  # of a session, 8
CAVEAT_IDLE = 6  # seconds of a stream, 2
CAVEAT_READ_ONLY = 7  # nothing
CAVEAT_MEMBER = 8  # nothing
GRANT_BYTES = 104  # device's key32 id8 mac key32 tail32
CAVEATS_MAX_BYTES = 200  # message 1 has room for 313 beside its other fields

MAGIC_POLICY = b"ZP1"
POLICY_CHECK_BYTES = 8  # SHA-256, truncated: against damage, not against an enemy
POLICY_HOLDERS = 255  # in the place of a party: every holder of a grant
POLICY_MAX_BYTES = 6144  # a board keeps it in one piece; 200 rules for 50 parties take 4 KiB

# --- legs ----------------------------------------------------------------------------------------------------------------
MAGIC_LEG = b"ZR1"  # to the relay: a leg follows
MAGIC_ENROL = b"ZE1"  # to the relay: an enrolment follows
MAGIC_HEADER = b"ZL1"  # end to end: first bytes of a leg in each direction
MAGIC_BYTES = 3
LEG_HELLO_BYTES = 53  # role1 n4 sid16 acct8 peer8 mac16
LEG_SIGNED_BYTES = 37  # what the mac covers, after the challenge
LEG_HEADER_BYTES = 24  # magic3 role1 n4 nonce16

ROLE_CLIENT = 1
ROLE_DEVICE = 2

# --- records and frames --------------------------------------------------------------------------------------------------
RECORD_HEAD_BYTES = 6  # len2 stream4; also the associated data
RECORD_MIN_LEN = 17  # a frame of one byte and the tag
RECORD_MAX_LEN = 0xFFFF  # what len2 can say: ciphertext and tag

FRAME_RESUME = 0x01  # {stream4 rx_offset8}*
FRAME_INFO = 0x02  # more1 {kind1 length1 name}*
FRAME_PING = 0x03  # records_sent8
FRAME_PONG = 0x04
FRAME_GOAWAY = 0x05  # reason1 last_stream4
FRAME_OPEN = 0x10  # service
FRAME_DATA = 0x11
FRAME_ACK = 0x12  # rx_offset8 window4
FRAME_FIN = 0x13  # offset8
FRAME_RST = 0x14  # code1

SERVICE_TCP = 1
SERVICE_HANDLER = 2
SERVICE_HTTP = 3
SERVICE_SERIAL = 4
SERVICE_REPL = 5

# --- line messages: what streams of SERVICE_SERIAL and SERVICE_REPL carry, type1 length2 body -----------------------------
LINE_DATA = 0x00  # bytes of the line
LINE_SETTINGS = 0x01  # baud4 data_bits1 parity1 stop_bits1
LINE_MODEM = 0x02  # mask1 values1
LINE_BREAK = 0x03  # ms2
LINE_RESET = 0x04  # which1
LINE_PURGE = 0x05  # which1
LINE_STATE = 0x06  # bits1

MODEM_DTR = 1
MODEM_RTS = 2
RESET_RUN = 1
RESET_BOOTLOADER = 2
PURGE_RECEIVED = 1
PURGE_UNSENT = 2
STATE_READ_ONLY = 0x01
STATE_LOST = 0x02
STATE_CTS = 0x10
STATE_DSR = 0x20
STATE_RI = 0x40
STATE_CD = 0x80

# --- codes: in RST, GOAWAY, message 2 and the relay's code byte ----------------------------------------------------------
OK = 0
DENIED = 1  # every policy reason: the refused learn nothing from which
TIME_UNKNOWN = 2
BUSY = 3
TARGET_REFUSED = 4
TARGET_RESET = 5
TRUNCATED = 6
RESUME_GONE = 7
REVOKED = 8
PROTO = 9
IDLE = 10
DRAIN = 11
QUOTA = 12

# --- limits ----------------------------------------------------------------------------------------------------------------
REKEY_RECORDS = 0x10000  # Noise REKEY before every 2^16th record
NAME_MAX_CHARS = 32  # of a party or a service
URL_MAX_CHARS = 80  # a broker's URL: message 2 has room for 95 beside code, account, keys and pin
SEEN_EPHEMERALS = 64  # per epoch; full: rotate. 2 epochs x 64 x 8 bytes = 1 KiB on a board
EPOCH_MS = 600_000
HANDSHAKES_PER_S = 4  # a peer; each costs five X25519: about 2 s of a chip's time
HANDSHAKE_BURST = 16
BOARD_SESSIONS = 3  # ESP32: 10 sockets, 1 MQTT, and a target socket for some streams
HOST_SESSIONS = 256
BOARD_STREAMS = 8
HOST_STREAMS = 1024
MAX_SERVICES = 64  # of one device
BOARD_MAX_RECORD = 1040  # 1 KiB of ciphertext and the tag; with its head below one rp2 TCP window
BOARD_WINDOW = 4096  # bytes buffered for a stream: 8 streams are a quarter of a board's heap
HOST_WINDOW = 1 << 20  # a stream; 100 Mbit/s at 80 ms round trip
CONFIRM_MS = 10_000  # from the relay's OK to the first record
PING_MS = 10_000  # silence before a PING
DEAD_MS = 25_000  # silence that ends a leg
HELLO_MS = 5_000  # the relay waits for a leg hello or an enrolment
PARTNER_MS = 15_000  # the relay parks a leg without a partner
CODE_TTL_S = 86_400  # a join code lives
RETRY_MS = (2_000, 4_000, 8_000)  # a message 1 without an answer is made anew after these

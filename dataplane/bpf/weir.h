/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What the steering program and the daemon agree on: the shim in front of a
 * punted frame, the configuration record, the flow table's entries and the
 * steering counters.
 *
 * dataplane/table/build.rs turns the numbers and the counters' names below into
 * Rust (weir_table::abi), and the assertions at the end tie the structs
 * to the same numbers, so the two sides cannot drift apart.
 */
#ifndef WEIR_H
#define WEIR_H

#include <linux/types.h>

/* Raised whenever anything in this file changes its layout or meaning. A
 * daemon never adopts pinned maps that carry another number. */
#define WEIR_ABI_VERSION 7

/* Most workers (queues of the punt pair) that a node can have. */
#define WEIR_MAX_WORKERS 64

/* Local-experimental EtherType (IEEE 802): marks a frame that carries a shim. */
#define WEIR_SHIM_TAG 0x88b5

enum weir_direction {
	WEIR_FROM_POD = 0, /* tc ingress of the host-side veth: leaving the pod */
	WEIR_TO_POD = 1,   /* tc egress of the host-side veth: entering the pod */
};

/* weir_shim.flags */
#define WEIR_SHIM_COVERS_BOTH 0x01 /* the verdict holds at the receiver's hook too */
#define WEIR_SHIM_COUNTED 0x02     /* counted in the flow's entry; sequence is valid */

/*
 * 16 bytes. A punted frame is [shim][Ethernet][L3...], so that the tag stands
 * where a parser expects the EtherType; an accepted frame comes back as
 * [Ethernet][shim][L3...], from which bpf_skb_adjust_room() can take the shim
 * away again.
 */
struct weir_shim {
	__u32 ifindex;   /* the veth whose hook punted the frame */
	__u32 worker;    /* the queue the steering program chose */
	__u8 direction;  /* enum weir_direction */
	__u8 flags;      /* WEIR_SHIM_*; COUNTED by the hook, the others by the worker */
	__be16 gso_size; /* of the punted packet, 0 if it was not a GSO packet */
	__be16 tag;      /* WEIR_SHIM_TAG */
	__u16 sequence;  /* its sender's packets punted before it, modulo 2^16 */
};

/*
 * ---- flow entries -----------------------------------------------------
 *
 * Arrays of 64-bit words; one entry is an element of weir_flows4 or weir_flows6
 * (and, with another key, of weir_verdicts4 or weir_verdicts6). What the words
 * mean is told in table/FLOW.md, together with the order in which they may be
 * written and read.
 *
 *   w0          ctl     version 63..32 | pod 31..16 | flags 15..8 | state 7..0
 *   w1..        key     FLOW4: address lo | address hi << 32; ports and protocol
 *                       FLOW6: address lo, upper and lower half; address hi,
 *                       upper and lower half; ports and protocol
 *   key + 0     aux     version 63..48 | seen lo 47..40 | seen hi 39..32 | tick 31..0
 *   key + 1     device of side lo 31..0 | device of side hi 63..32
 *   key + 2, 3  stamps of side lo and of side hi: slot 63..32 | value 31..0
 *   key + 4     counts  punted lo 15..0 | returned lo 31..16 |
 *                       punted hi 47..32 | returned hi 63..48
 */
#define WEIR_FLOW4_WORDS 8
#define WEIR_FLOW6_WORDS 16
#define WEIR_FLOW4_KEY_WORDS 2
#define WEIR_FLOW6_KEY_WORDS 5
#define WEIR_FLOW_BUCKET 2 /* entries of a bucket; a key has two buckets */

#define WEIR_FLOW_CTL 0
#define WEIR_FLOW_KEY 1
/* Words after the key. */
#define WEIR_FLOW_AUX 0
#define WEIR_FLOW_IFINDEX 1
#define WEIR_FLOW_STAMPS 2
#define WEIR_FLOW_COUNTS 4

#define WEIR_FLOW_FREE 0    /* the slot holds nothing */
#define WEIR_FLOW_BUSY 1    /* a writer is at work: read nothing but ctl */
#define WEIR_FLOW_ALLOWED 2
#define WEIR_FLOW_DENIED 3
#define WEIR_FLOW_STATE_MASK 0xff
/* A flow: side hi opened it. A cached denial: it is the receiver's. */
#define WEIR_FLOW_FLAG_HI 0x100
#define WEIR_FLOW_FLAGS_MASK 0xff00
/* Of a flow: the pod to whose account it is (weir_quota), by the low bits of its device;
 * 0 = nobody's. Who frees the slot reads it from the word by which it is freed. */
#define WEIR_FLOW_POD_SHIFT 16
#define WEIR_FLOW_POD_MASK 0xffff
#define WEIR_FLOW_VERSION_SHIFT 32

#define WEIR_AUX_VERSION_SHIFT 48
#define WEIR_AUX_SEEN_LO_SHIFT 40
#define WEIR_AUX_SEEN_HI_SHIFT 32

/* What was seen from a side: TCP's own bits, and one for "anything". SCTP has those of what
 * its packets' first chunks would be in TCP (tuple.h). */
#define WEIR_SEEN_FIN 0x01
#define WEIR_SEEN_SYN 0x02
#define WEIR_SEEN_RST 0x04 /* a reset, and nothing else since */
#define WEIR_SEEN_ACK 0x10
#define WEIR_SEEN_MORE 0x40 /* something that neither opens nor resets */
#define WEIR_SEEN_ANY 0x80

#define WEIR_PORT_HI_SHIFT 16
#define WEIR_PROTOCOL_SHIFT 32

/* Last-seen times are CLOCK_MONOTONIC in units of 2^26 ns (67 ms). */
#define WEIR_TICK_SHIFT 26

/* Seconds of silence after which a flow is forgotten. */
#define WEIR_TIMEOUT_TCP_OPENING 20
#define WEIR_TIMEOUT_TCP_ESTABLISHED 3600
#define WEIR_TIMEOUT_TCP_CLOSING 30
#define WEIR_TIMEOUT_TCP_RESET 10
#define WEIR_TIMEOUT_UNANSWERED 30
#define WEIR_TIMEOUT_ANSWERED 120
#define WEIR_TIMEOUT_SCTP_ANSWERED 210 /* seven heartbeats of 30 s, RFC 9260 section 16 */
#define WEIR_TIMEOUT_ICMP 10

/* Cells of weir_stamps, a power of two; a cell is next 63..32 | current 31..0. */
#define WEIR_STAMP_SLOTS 262144

/* Sets of weir_macs, a power of two, and the bits of its index: a device's set is that of the
 * lower bits of its ifindex, and a word of it hardware address 47..0 | upper bits of the
 * ifindex, plus one, 63..48; 0 is nothing. */
#define WEIR_MAC_SETS 32768
#define WEIR_MAC_INDEX_BITS 15
#define WEIR_MAC_WAYS 2

/* Words of weir_quota: how many flows are to the account of each pod. */
#define WEIR_QUOTA_WORDS 65537
/* Behind the accounts: how many flows one of them may have at present. */
#define WEIR_QUOTA_LIMIT 65536

/* Entries of the verdict cache, powers of two. */
#define WEIR_VERDICTS4 32768
#define WEIR_VERDICTS6 8192

/* Words of weir_node_ports: a bit for each port of TCP, of UDP and of SCTP, in this order. */
#define WEIR_NODE_PORT_WORDS 3072
/* Words of one protocol. */
#define WEIR_NODE_PORT_STRIDE 1024

/* How many dropped packets are told one by one, for each reason and CPU (drops.h), or
 * worker (table/src/drops): so many a tick (194 a second), after a reserve. */
#define WEIR_DROPS_A_TICK 13
#define WEIR_DROPS_BURST 50
/* Bytes of the frame that are told. */
#define WEIR_DROP_FRAME 192
/* What weir_drops holds: 64 CPUs at once can tell a reserve's worth of a reason. */
#define WEIR_DROP_BYTES 1048576

/*
 * A dropped packet, on its way from a hook to the daemon.
 */
struct weir_drop {
	__u64 time_ns;    /* CLOCK_MONOTONIC */
	__u32 ifindex;    /* the veth whose hook dropped it */
	__u32 frame_len;  /* of the whole frame */
	__u32 left_out;   /* dropped on this CPU for this reason and not told, since the last */
	__u16 captured;   /* bytes of the frame that are here, from its Ethernet header on */
	__u8 counter;     /* enum weir_steering_counter: the reason */
	__u8 direction;   /* enum weir_direction */
	__u8 frame[WEIR_DROP_FRAME];
};

/* weir0 is a TAP device, not a veth: a GSO packet arrives whole ... */
#define WEIR_PUNT_TAP 1
/* ... a UDP one as well. */
#define WEIR_PUNT_TAP_UDP 2

/*
 * Written by the daemon through its mapping; read by every hook. Every field is
 * a whole 8-byte word, so that the daemon can store each of them atomically.
 */
struct weir_config {
	__u64 hash_key[12];    /* random, drawn once a boot */
	__u64 abi_version;     /* WEIR_ABI_VERSION */
	__u64 punt_ifindex;    /* weir0; 0 while there is none */
	__u64 workers;         /* queues in use, 1..WEIR_MAX_WORKERS; 0 = not serving */
	__u64 fail_open;       /* 0 = drop undecided packets while no worker serves */
	__u64 mark_value;      /* the "decided" bits of skb->mark ... */
	__u64 mark_mask;       /* ... under this mask; other bits are left alone */
	__u64 heartbeat_timeout_ns;
	__u64 offload;         /* 0 = every packet goes through a worker */
	__u64 flow4_mask;      /* buckets minus one of the IPv4 flow table ... */
	__u64 flow6_mask;      /* ... and of the IPv6 one */
	__u64 punt_interval_ns; /* a device's punts, at most one each ...; 0 = no limit */
	__u64 punt_burst_ns;   /* ... after as much credit as this */
	__u64 tick;            /* coarse time, by the workers; stands still while none runs */
	__u64 adopted;         /* the flows that were open before the first daemon are entered */
	__u64 punt_flags;      /* WEIR_PUNT_*: what kind of device weir0 is */
	__u64 heartbeat_ns[WEIR_MAX_WORKERS]; /* CLOCK_MONOTONIC, by each worker */
};

/* How the hooks look into struct sk_buff (unfinished.h): not at all, ... */
#define WEIR_SKB_UNSEEN 0
#define WEIR_SKB_COPIED 1 /* by bpf_probe_read_kernel() */
#define WEIR_SKB_CAST 2   /* by bpf_cast_to_kern_ctx(), Linux 6.2 */
/* In place of the number of that function's type, until the program is loaded. */
#define WEIR_CAST_MARK 0x57454952

/* Index into the weir_steering per-CPU array. */
enum weir_steering_counter {
	WEIR_STEER_HIT,             /* a current, allowed flow: passed in the kernel */
	WEIR_STEER_OPENED,          /* first packet of a flow entered by a cached verdict */
	WEIR_STEER_PUNTED,          /* sent to a worker */
	WEIR_STEER_RETURNED,        /* came back from a worker, accepted */
	WEIR_STEER_DECIDED,         /* passed a hook on the strength of the mark */
	WEIR_STEER_NODE,            /* the node's own traffic, passed */
	WEIR_STEER_NEIGHBOUR,       /* ARP, ND, MLD, passed */
	WEIR_STEER_STALE,           /* punted: a known flow, to be judged again */
	WEIR_STEER_HELD,            /* punted: earlier packets of the flow are still out */
	WEIR_STEER_DROP_CUT_EGRESS, /* leaving a pod, of a flow that a change has cut */
	WEIR_STEER_DROP_CUT_INGRESS, /* the same, entering a pod */
	WEIR_STEER_DROP_EGRESS,     /* a cached verdict: the sender's policies deny */
	WEIR_STEER_DROP_INGRESS,    /* a cached verdict: the receiver's policies deny */
	WEIR_STEER_DROP_PUNT_RATE,  /* the device asked for more punts than its share */
	WEIR_STEER_DROP_L2,         /* tagged, LLC/SNAP or unknown EtherType */
	WEIR_STEER_DROP_ND,         /* ARP or ND for another's address, RA, redirect */
	WEIR_STEER_DROP_MAC,        /* from a pod, under a hardware address that is not its own */
	WEIR_STEER_DROP_UNFINISHED, /* a checksum is yet to be written where a verdict looks */
	WEIR_STEER_DROP_TRUNCATED,  /* too short for its headers */
	WEIR_STEER_DROP_NO_WORKER,  /* failed closed */
	WEIR_STEER_PASS_NO_WORKER,  /* failed open */
	WEIR_STEER_DROP_SHIM,       /* the shim could not be pushed, or was not one */
	WEIR_STEER_DROP_RECEIVER,   /* decided for another receiver than this pod */
	WEIR_STEER_DROP_NO_CONFIG,  /* configuration map missing or of another ABI */
	WEIR_STEER_COUNT,
};

/* Where the daemon finds the fields of struct weir_config: word offsets. */
#define WEIR_CONFIG_HASH_KEY 0
#define WEIR_CONFIG_ABI_VERSION 12
#define WEIR_CONFIG_PUNT_IFINDEX 13
#define WEIR_CONFIG_WORKERS 14
#define WEIR_CONFIG_FAIL_OPEN 15
#define WEIR_CONFIG_MARK_VALUE 16
#define WEIR_CONFIG_MARK_MASK 17
#define WEIR_CONFIG_HEARTBEAT_TIMEOUT 18
#define WEIR_CONFIG_OFFLOAD 19
#define WEIR_CONFIG_FLOW4_MASK 20
#define WEIR_CONFIG_FLOW6_MASK 21
#define WEIR_CONFIG_PUNT_INTERVAL 22
#define WEIR_CONFIG_PUNT_BURST 23
#define WEIR_CONFIG_TICK 24
#define WEIR_CONFIG_ADOPTED 25
#define WEIR_CONFIG_PUNT_FLAGS 26
#define WEIR_CONFIG_HEARTBEAT 27
#define WEIR_CONFIG_WORDS 91

#define WEIR_AT(field, word) \
	_Static_assert(__builtin_offsetof(struct weir_config, field) == (word) * 8, #field)
WEIR_AT(hash_key, WEIR_CONFIG_HASH_KEY);
WEIR_AT(abi_version, WEIR_CONFIG_ABI_VERSION);
WEIR_AT(punt_ifindex, WEIR_CONFIG_PUNT_IFINDEX);
WEIR_AT(workers, WEIR_CONFIG_WORKERS);
WEIR_AT(fail_open, WEIR_CONFIG_FAIL_OPEN);
WEIR_AT(mark_value, WEIR_CONFIG_MARK_VALUE);
WEIR_AT(mark_mask, WEIR_CONFIG_MARK_MASK);
WEIR_AT(heartbeat_timeout_ns, WEIR_CONFIG_HEARTBEAT_TIMEOUT);
WEIR_AT(offload, WEIR_CONFIG_OFFLOAD);
WEIR_AT(flow4_mask, WEIR_CONFIG_FLOW4_MASK);
WEIR_AT(flow6_mask, WEIR_CONFIG_FLOW6_MASK);
WEIR_AT(punt_interval_ns, WEIR_CONFIG_PUNT_INTERVAL);
WEIR_AT(punt_burst_ns, WEIR_CONFIG_PUNT_BURST);
WEIR_AT(tick, WEIR_CONFIG_TICK);
WEIR_AT(adopted, WEIR_CONFIG_ADOPTED);
WEIR_AT(punt_flags, WEIR_CONFIG_PUNT_FLAGS);
WEIR_AT(heartbeat_ns, WEIR_CONFIG_HEARTBEAT);
_Static_assert(sizeof(struct weir_config) == WEIR_CONFIG_WORDS * 8, "weir_config");
_Static_assert(sizeof(struct weir_shim) == 16, "weir_shim");
_Static_assert(sizeof(struct weir_drop) == 24 + WEIR_DROP_FRAME, "weir_drop");

#endif

/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What the steering program and the daemon agree on: the shim in front of a
 * punted frame, the configuration record and the steering counters.
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
#define WEIR_ABI_VERSION 1

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
	__u8 flags;      /* WEIR_SHIM_*; set by the worker */
	__be16 gso_size; /* of the punted packet, 0 if it was not a GSO packet */
	__be16 tag;      /* WEIR_SHIM_TAG */
	__u16 reserved;
};

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
	__u64 heartbeat_ns[WEIR_MAX_WORKERS]; /* CLOCK_MONOTONIC, by each worker */
};

/* Index into the weir_steering per-CPU array. */
enum weir_steering_counter {
	WEIR_STEER_PUNTED,          /* sent to a worker */
	WEIR_STEER_RETURNED,        /* came back from a worker, accepted */
	WEIR_STEER_DECIDED,         /* passed a hook on the strength of the mark */
	WEIR_STEER_NODE,            /* the node's own traffic, passed */
	WEIR_STEER_NEIGHBOUR,       /* ARP, ND, MLD, passed */
	WEIR_STEER_DROP_L2,         /* tagged, LLC/SNAP or unknown EtherType */
	WEIR_STEER_DROP_ND,         /* ARP or ND for another's address, RA, redirect */
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
#define WEIR_CONFIG_HEARTBEAT 19
#define WEIR_CONFIG_WORDS 83

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
WEIR_AT(heartbeat_ns, WEIR_CONFIG_HEARTBEAT);
_Static_assert(sizeof(struct weir_config) == WEIR_CONFIG_WORDS * 8, "weir_config");
_Static_assert(sizeof(struct weir_shim) == 16, "weir_shim");

#endif

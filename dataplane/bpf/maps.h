/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The steering program's maps, and counting.
 *
 * Those that outlive the daemon are pinned by name (src/steer/mod.rs). The
 * mmapable ones are shared with the workers word by word; who writes which is
 * told in weir.h and table/FLOW.md.
 */
#ifndef WEIR_MAPS_H
#define WEIR_MAPS_H

#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#include "weir.h"

#define PASS TC_ACT_UNSPEC /* let the programs after this one have their say */
#define DROP TC_ACT_SHOT

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct weir_config);
} weir_config SEC(".maps");

/* For kernels without AF_XDP the program is compiled with another type: weir0 is a TAP
 * device there. */
#ifdef WEIR_WITHOUT_AF_XDP
#define WEIR_XSKS_TYPE BPF_MAP_TYPE_ARRAY
#else
#define WEIR_XSKS_TYPE BPF_MAP_TYPE_XSKMAP
#endif
struct {
	__uint(type, WEIR_XSKS_TYPE);
	__uint(max_entries, WEIR_MAX_WORKERS);
	__type(key, __u32);
	__type(value, __u32);
} weir_xsks SEC(".maps");

/* weir0 if it is a TAP device: it is gone from here the moment its daemon is, as sockets are
 * from weir_xsks. */
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bpf_devmap_val);
} weir_taps SEC(".maps");

/* An address in IPv6 form; IPv4 is mapped (::ffff:a.b.c.d). */
struct address {
	__u32 word[4];
};

/* A pod's own address, by the device at which it speaks; and by 0, for any of them. */
struct pod_address {
	struct address address;
	__u32 ifindex;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct pod_address);
	__type(value, __u32);
} weir_pod_addrs SEC(".maps");

/* The node's own addresses, kept by the daemon from netlink. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct address);
	__type(value, __u32);
} weir_node_addrs SEC(".maps");

/* Which ports of the node's own addresses are Services': what a pod sends there is not the
 * node's. Port 0 of TCP, which is nobody's, says whether there are any. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, WEIR_NODE_PORT_WORDS);
	__type(key, __u32);
	__type(value, __u64);
} weir_node_ports SEC(".maps");

/* The pods' hardware addresses, by device. An array: it costs the fast path 2 ns, a
 * hash map 28. */
struct mac_set {
	__u64 way[WEIR_MAC_WAYS];
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, WEIR_MAC_SETS);
	__type(key, __u32);
	__type(value, struct mac_set);
} weir_macs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, WEIR_STEER_COUNT);
	__type(key, __u32);
	__type(value, __u64);
} weir_steering SEC(".maps");

/* Shared with user space only, but pinned and sized with the rest: counters
 * (one 4096-byte block a worker and one for the node) and the flow table. */
struct counter_block {
	__u64 word[512];
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, WEIR_MAX_WORKERS + 1);
	__type(key, __u32);
	__type(value, struct counter_block);
} weir_counters SEC(".maps");

/* The flow table: one element an entry. */
struct flow4 {
	__u64 word[WEIR_FLOW4_WORDS];
};
struct flow6 {
	__u64 word[WEIR_FLOW6_WORDS];
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1024); /* the daemon sets the real size (--flows) */
	__type(key, __u32);
	__type(value, struct flow4);
} weir_flows4 SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct flow6);
} weir_flows6 SEC(".maps");

/* How many flows are to the account of each pod (table/src/flow/quota.rs). */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, WEIR_QUOTA_WORDS);
	__type(key, __u32);
	__type(value, __u64);
} weir_quota SEC(".maps");

/* The verdict cache, in entries of the same layout (table/src/flow/verdicts.rs). */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, WEIR_VERDICTS4);
	__type(key, __u32);
	__type(value, struct flow4);
} weir_verdicts4 SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, WEIR_VERDICTS6);
	__type(key, __u32);
	__type(value, struct flow6);
} weir_verdicts6 SEC(".maps");

/* Which verdicts are out of date (table/src/stamps.rs). */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, WEIR_STAMP_SLOTS);
	__type(key, __u32);
	__type(value, __u64);
} weir_stamps SEC(".maps");

/* When a hook's credit of punts will be used up, CLOCK_MONOTONIC in ns; by device and
 * direction, so that what floods a pod does not use up the pod's own. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, __u64);
} weir_punt_rate SEC(".maps");

static __always_inline void count(__u32 counter)
{
	__u64 *n = bpf_map_lookup_elem(&weir_steering, &counter);

	if (n)
		(*n)++;
}

/*
 * A packet that is to be dropped, and why: no word for the kernel yet, which would take it for
 * "go on". Every program ends with settle() (drops.h), which counts it and makes it one.
 */
#define DROPPED 0x1000

static __always_inline int drop(__u32 counter)
{
	int verdict = DROPPED + counter;

	/* Keeps the compiler from joining all drops into one, which takes more stack than
	 * steer_undecided() has left. */
	asm volatile("" : "+r"(verdict));
	return verdict;
}

static __always_inline int pass(__u32 counter)
{
	count(counter);
	return PASS;
}

static __always_inline struct weir_config *config(void)
{
	__u32 zero = 0;
	struct weir_config *c = bpf_map_lookup_elem(&weir_config, &zero);

	/* The version is written last, so a record that carries it is complete. */
	return c && c->abi_version == WEIR_ABI_VERSION ? c : 0;
}

#endif

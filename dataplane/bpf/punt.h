/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The way to the workers: which one, whether it serves, whether this hook may ask
 * again so soon, and the shim that says where the packet came from.
 *
 * Invariant: a packet that cannot go there is dropped, unless its flow is known to
 * be allowed or the operator chose fail_open and no worker serves.
 */
#ifndef WEIR_PUNT_H
#define WEIR_PUNT_H

#include "flow.h"
#include "parse.h"

static __always_inline __u32 worker_of(const struct weir_config *c, const struct packet *p)
{
	return (__u32)(((p->spread >> 32) * c->workers) >> 32);
}

static __always_inline int serving(const struct weir_config *c, __u32 worker, __u64 now)
{
	__u32 tap = 0;

	if (!c->punt_ifindex || !c->workers || worker >= WEIR_MAX_WORKERS)
		return 0;
	/* A closed socket, a device that is gone leave their map at once: this notices a
	 * killed daemon, the heartbeat one that hangs. The program may outlive its daemon and
	 * meet the next one's record: what it has no map for does not serve it. */
#ifdef WEIR_WITHOUT_AF_XDP
	if (!(c->punt_flags & WEIR_PUNT_TAP) || !bpf_map_lookup_elem(&weir_taps, &tap))
		return 0;
#else
	if (c->punt_flags & WEIR_PUNT_TAP ? !bpf_map_lookup_elem(&weir_taps, &tap) :
					    !bpf_map_lookup_elem(&weir_xsks, &worker))
		return 0;
#endif
	/* Signed: the worker may write a later time than ours between the two
	 * reads, and that is a sign of life, not of 584 years of silence. */
	return (__s64)(now - c->heartbeat_ns[worker]) < (__s64)c->heartbeat_timeout_ns;
}

/* As how many packets this one reaches the worker. What was made by a program of a pod's may
 * come without their number. */
static __always_inline __u32 packets_of(struct __sk_buff *skb, const struct weir_config *c,
					__u8 protocol)
{
	__u64 whole = protocol == IPPROTO_UDP ? WEIR_PUNT_TAP_UDP : WEIR_PUNT_TAP;

	/* A veth gets the segments of a GSO packet. */
	if (!skb->gso_size || c->punt_flags & whole)
		return 1;
	return skb->gso_segs ?: (skb->len + skb->gso_size - 1) / skb->gso_size;
}

/*
 * Whether the hook may send so many packets to a worker now. A bucket of credit that refills
 * steadily, kept as one number: the time at which it would be empty (the generic cell rate
 * algorithm, ITU-T I.371). Racing packets may both take the last credit. Packets that a cached
 * verdict vouches for have a bucket of their own: a flood from addresses of which nobody has
 * heard does not keep known clients from a pod whose account is full.
 */
static __always_inline int may_punt(struct __sk_buff *skb, const struct weir_config *c,
				    __u8 direction, int vouched, __u32 packets, __u64 now)
{
	__u32 hook = skb->ifindex << 2 | (vouched ? 2 : 0) | direction;
	__u64 *empty_at, until;

	if (!c->punt_interval_ns)
		return 1;
	empty_at = bpf_map_lookup_elem(&weir_punt_rate, &hook);
	until = empty_at && *empty_at > now ? *empty_at : now;
	until += c->punt_interval_ns * packets;
	if (until - now > c->punt_burst_ns)
		return 0;
	if (empty_at)
		*empty_at = until;
	else
		bpf_map_update_elem(&weir_punt_rate, &hook, &until, BPF_ANY);
	return 1;
}

/* What the fast path found out about a packet. */
struct finding {
	struct tuple tuple;
	struct flow flow; /* rest is 0 if there is none for this packet */
};

/* Sends the packet to a worker; `known` is what was found if its flow is known. If that is
 * allowed, the packet goes there for the sake of order only, and passes if it cannot. */
static __always_inline int punt(struct __sk_buff *skb, struct weir_config *c,
				const struct packet *p, struct finding *known, int is_allowed,
				__u8 direction)
{
	struct weir_shim shim = {
		.ifindex = skb->ifindex,
		.direction = direction,
		.gso_size = bpf_htons((__u16)skb->gso_size),
		.tag = bpf_htons(WEIR_SHIM_TAG),
	};
	/* Of what is not known it may be the one or the other. */
	__u32 packets = packets_of(skb, c, known ? known->tuple.protocol : IPPROTO_UDP);
	__u32 worker = worker_of(c, p);
	__u64 now = bpf_ktime_get_ns();

	if (!serving(c, worker, now)) {
		if (is_allowed)
			return pass(WEIR_STEER_HIT);
		if (c->fail_open)
			return pass(WEIR_STEER_PASS_NO_WORKER);
		return drop(WEIR_STEER_DROP_NO_WORKER);
	}
	if (!may_punt(skb, c, direction, p->vouched, packets, now)) {
		if (is_allowed)
			return pass(WEIR_STEER_HIT);
		return drop(WEIR_STEER_DROP_PUNT_RATE);
	}
	shim.worker = worker;
	if (known) {
		shim.flags = WEIR_SHIM_COUNTED;
		shim.sequence = count_punted(&known->flow, known->tuple.from_hi, packets);
	}
	if (bpf_skb_change_head(skb, sizeof(shim), 0) ||
	    bpf_skb_store_bytes(skb, 0, &shim, sizeof(shim), 0))
		return drop(WEIR_STEER_DROP_SHIM);
	count(WEIR_STEER_PUNTED);
	skb->queue_mapping = worker + 1; /* 0 means "not chosen" */
	return bpf_redirect((__u32)c->punt_ifindex, 0);
}

#endif

/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Dropped packets, told to the daemon one by one: a sample of them.
 *
 * Each reason has a budget on each CPU, in the coarse ticks that workers publish: no clock is
 * read for a packet that is not told. The tick stands still while no daemon runs, and so does
 * the telling. The same account is kept for workers in table/src/drops/budget.rs.
 *
 * Invariant: nothing here changes what becomes of a packet.
 */
#ifndef WEIR_DROPS_H
#define WEIR_DROPS_H

#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>

#include "maps.h"

struct drop_budget {
	__u32 tick;
	__u32 credit;
	__u32 left_out; /* since the last one that was told */
	__u32 unused;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, WEIR_STEER_COUNT);
	__type(key, __u32);
	__type(value, struct drop_budget);
} weir_drop_budgets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, WEIR_DROP_BYTES);
} weir_drops SEC(".maps");

/* Bytes of the two hardware addresses, and of a tag. */
#define MACS 12
#define TAG 4

/* Copies the frame's head; a tag that the device took off the frame is put back. Gives the
 * number of bytes. */
static __always_inline __u32 copy_head(struct __sk_buff *skb, __u8 *frame)
{
	__u32 room = WEIR_DROP_FRAME, skip = 0, length = skb->len;

	if (skb->vlan_present) {
		__be16 tag[2] = { (__be16)skb->vlan_proto, bpf_htons((__u16)skb->vlan_tci) };

		if (length <= MACS || bpf_skb_load_bytes(skb, 0, frame, MACS))
			return 0;
		__builtin_memcpy(frame + MACS, tag, TAG);
		frame += MACS + TAG;
		room -= MACS + TAG;
		skip = MACS;
		length -= MACS;
	}
	if (length > room)
		length = room;
	/* The verifier wants to see that it is not 0. */
	asm volatile("" : "+r"(length));
	if (!length || length > WEIR_DROP_FRAME - (skip ? MACS + TAG : 0) ||
	    bpf_skb_load_bytes(skb, skip, frame, length))
		return 0;
	return skip ? length + MACS + TAG : length;
}

static __always_inline void tell_drop(struct __sk_buff *skb, struct drop_budget *b, __u32 counter,
				      __u32 direction)
{
	struct weir_drop *d = bpf_ringbuf_reserve(&weir_drops, sizeof(*d), 0);

	if (!d) {
		b->left_out++;
		return;
	}
	d->time_ns = bpf_ktime_get_ns();
	d->ifindex = skb->ifindex;
	d->frame_len = skb->len + (skb->vlan_present ? TAG : 0);
	d->left_out = b->left_out;
	b->left_out = 0;
	d->counter = counter;
	d->direction = direction;
	d->captured = copy_head(skb, d->frame);
	/* The daemon looks by itself: waking it would cost more than all of this. */
	bpf_ringbuf_submit(d, BPF_RB_NO_WAKEUP);
}

/* Counts a dropped packet and tells of it if its reason's budget allows. A global function:
 * the hooks' own stack is full. */
__noinline int dropped(struct __sk_buff *skb, __u32 counter, __u32 direction)
{
	struct drop_budget *b = bpf_map_lookup_elem(&weir_drop_budgets, &counter);
	struct weir_config *c = config();
	__u32 tick, gap;

	count(counter);
	if (!b || !c)
		return DROP;
	tick = (__u32)c->tick;
	if (b->tick != tick) {
		gap = tick - b->tick;
		b->tick = tick;
		b->credit = gap >= WEIR_DROPS_BURST ? WEIR_DROPS_BURST :
						      b->credit + gap * WEIR_DROPS_A_TICK;
		if (b->credit > WEIR_DROPS_BURST)
			b->credit = WEIR_DROPS_BURST;
	}
	if (!b->credit) {
		b->left_out++;
		return DROP;
	}
	b->credit--;
	tell_drop(skb, b, counter, direction);
	return DROP;
}

/* The last word about a packet: of a drop() the kernel's word for it, of any other verdict
 * the verdict. What is none, passes nothing. */
static __always_inline int settle(struct __sk_buff *skb, int verdict, __u32 direction)
{
	__u32 counter = (__u32)verdict - DROPPED;

	if (verdict == PASS || verdict == TC_ACT_REDIRECT)
		return verdict;
	return counter < WEIR_STEER_COUNT ? dropped(skb, counter, direction) : DROP;
}

#endif

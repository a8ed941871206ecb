/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Only for tests/tuple_differential: what read_tuple() (tuple.h) makes of a frame, and how long
 * flow_timeout() (flow.h) lets a flow be silent, and what unfinished.h does blindly.
 */
#include "flow.h"
#include "unfinished.h"

/* What was read, in words of 8 bytes. */
struct reading {
	__u64 family; /* enum family */
	__u64 from_hi;
	__u64 protocol;
	__u64 tcp_flags;
	__u64 hash;
	__u64 verdict_hash;
	__u64 key[5];
	__u64 verdict_key[5];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct reading);
} weir_reading SEC(".maps");

static __always_inline int read_frame(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct reading *r = bpf_map_lookup_elem(&weir_reading, &zero);
	struct weir_config *c = config();
	struct tuple t = {};

	if (!r || !c)
		return DROP;
	r->family = read_tuple(skb, c, &t);
	if (r->family == FAMILY_NONE)
		return PASS;
	r->from_hi = t.from_hi;
	r->protocol = t.protocol;
	r->tcp_flags = t.tcp_flags;
	r->hash = t.s.hash;
	for (int i = 0; i < 5; i++)
		r->key[i] = t.s.key[i];
	search_verdict(c, &t);
	r->verdict_hash = t.s.hash;
	for (int i = 0; i < 5; i++)
		r->verdict_key[i] = t.s.key[i];
	return PASS;
}

SEC("classifier")
int tuple_read(struct __sk_buff *skb)
{
	return read_frame(skb);
}

/* The same behind a VLAN tag that the device has taken off the frame. */
SEC("classifier")
int tuple_read_tagged(struct __sk_buff *skb)
{
	if (bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), 7))
		return DROP;
	return read_frame(skb);
}

/* The flow is described behind the Ethernet header: protocol, what was seen from either side,
 * whether side hi opened it, and whether it is cut. */
SEC("classifier")
int flow_timeout_of(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct reading *r = bpf_map_lookup_elem(&weir_reading, &zero);
	struct flow f = {};
	__u8 about[5];

	if (!r || bpf_skb_load_bytes(skb, ETH_HLEN, about, sizeof(about)))
		return DROP;
	f.aux = (__u64)about[1] << WEIR_AUX_SEEN_LO_SHIFT |
		(__u64)about[2] << WEIR_AUX_SEEN_HI_SHIFT;
	f.ctl = (about[3] ? WEIR_FLOW_FLAG_HI : 0) |
		(about[4] ? WEIR_FLOW_DENIED : WEIR_FLOW_ALLOWED);
	r->family = flow_timeout(&f, about[0]);
	return PASS;
}

/* Whether a packet passes whose struct sk_buff cannot be read. */
SEC("classifier")
int unreadable_passes(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct reading *r = bpf_map_lookup_elem(&weir_reading, &zero);
	__u32 place = unfinished_in(0);

	if (!r)
		return DROP;
	r->family = !place || is_harmless(place, ETH_HLEN + 20) || is_harmless(place, ETH_HLEN + 40);
	return PASS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Whose hardware address a frame carries that leaves a pod: in the Ethernet header, and, if it
 * is ARP or neighbour discovery, in what it tells the link about its sender. A frame under
 * another's would make a bridge send it what is the other's, or nothing to the other.
 *
 * A device whose address is not known is not checked.
 */
#ifndef WEIR_LINK_H
#define WEIR_LINK_H

#include "parse.h"

/* A hardware address, aligned as the verifier wants it on the stack. */
struct mac {
	__u16 unused;
	__u16 upper;
	__u32 lower;
};

/* A hardware address as weir_macs has it, of a device. */
static __always_inline __u64 mac_word(__u16 upper, __u32 lower, __u32 ifindex)
{
	return ((__u64)(ifindex >> WEIR_MAC_INDEX_BITS) + 1) << 48 | (__u64)upper << 32 | lower;
}

static __always_inline struct mac_set *mac_set_of(__u32 ifindex)
{
	__u32 set = ifindex & (WEIR_MAC_SETS - 1);

	return bpf_map_lookup_elem(&weir_macs, &set);
}

/* For the fast path: the frame is its device's, as far as is known. A device that is not known
 * takes the long way, which is seldom: all are, before their hooks are attached. */
static __always_inline int has_own_mac(const struct __sk_buff *skb)
{
	const __u8 *data = (const __u8 *)(long)skb->data;
	struct mac_set *set = mac_set_of(skb->ifindex);
	__u64 own;

	if (!set || data + ETH_HLEN > (const __u8 *)(long)skb->data_end)
		return 0;
	own = mac_word(*(const __u16 *)(data + ETH_ALEN), *(const __u32 *)(data + ETH_ALEN + 2),
		       skb->ifindex);
	return set->way[0] == own || set->way[1] == own;
}

/* 0 if the device has another hardware address than the one `at` this place of the frame. */
static __always_inline int may_use_mac(struct __sk_buff *skb, const struct mac_set *set, __u32 at)
{
	struct mac mac = {};
	__u64 own;

	if (bpf_skb_load_bytes(skb, at, &mac.upper, ETH_ALEN))
		return 1; /* too short: for others to drop */
	own = mac_word(mac.upper, mac.lower, skb->ifindex);
	for (int way = 0; way < WEIR_MAC_WAYS; way++) {
		__u64 known = READ(set->way[way]);

		if (known >> 48 == own >> 48)
			return known == own;
	}
	return 1;
}

/* Options of a neighbour discovery message that name a hardware address: RFC 4861 4.6.1. */
#define ND_SOURCE_LINK_ADDRESS 1
#define ND_TARGET_LINK_ADDRESS 2
/* More than any stack sends; a message with more is dropped. */
#define ND_OPTIONS 8

/* Whether a neighbour discovery message of a pod tells of no other's hardware address. */
static __always_inline int nd_is_honest(struct __sk_buff *skb, const struct mac_set *set,
					__u32 at, __u32 end)
{
	__u8 option[2];

	for (int i = 0; i < ND_OPTIONS; i++) {
		if (at >= end)
			return 1;
		if (bpf_skb_load_bytes(skb, at, option, sizeof(option)) || !option[1])
			return 0;
		if ((option[0] == ND_SOURCE_LINK_ADDRESS || option[0] == ND_TARGET_LINK_ADDRESS) &&
		    !may_use_mac(skb, set, at + 2))
			return 0;
		at += option[1] * 8;
	}
	return at >= end;
}

/*
 * Whether a packet of a pod may be neighbour discovery behind extension headers. RFC 4861 does
 * not forbid them and receivers do not mind, but nobody sends it so, and what it claims would
 * escape the rules for neighbour discovery (RFC 7113 tells of the same for router guards). A
 * function of its own for its share of the stack.
 */
__noinline int hides_discovery(struct __sk_buff *skb)
{
	__u16 ethertype;
	__u8 next, type;
	__u32 at;

	if (bpf_skb_load_bytes(skb, 12, &ethertype, sizeof(ethertype)) ||
	    ethertype != bpf_htons(ETH_P_IPV6) ||
	    bpf_skb_load_bytes(skb, ETH_HLEN + 6, &next, 1) || !is_extension(next))
		return 0;
	at = transport6(skb, &next);
	if (!at)
		return 1; /* nobody can say */
	return next == NEXTHDR_ICMPV6 && !bpf_skb_load_bytes(skb, at, &type, 1) &&
	       type >= ND_ROUTER_SOLICIT && type <= ND_REDIRECT;
}

/*
 * Whether a frame that leaves a pod says nothing false about hardware addresses. A global
 * function, beside steer_undecided(), whose stack is full.
 */
__noinline int link_is_honest(struct __sk_buff *skb)
{
	struct mac_set *set = mac_set_of(skb->ifindex);
	__u32 at = ETH_HLEN + 40, end;
	__u8 head[8], type;
	__u16 ethertype;

	if (!set || bpf_skb_load_bytes(skb, 12, &ethertype, sizeof(ethertype)))
		return 1; /* too short: for others to drop */
	if (!may_use_mac(skb, set, ETH_ALEN))
		return 0;
	/* The sender's, behind types, lengths and operation (RFC 826). */
	if (ethertype == bpf_htons(ETH_P_ARP))
		return may_use_mac(skb, set, ETH_HLEN + 8);
	if (ethertype != bpf_htons(ETH_P_IPV6) ||
	    bpf_skb_load_bytes(skb, ETH_HLEN, head, sizeof(head)) || head[6] != NEXTHDR_ICMPV6 ||
	    head[7] != 255 || bpf_skb_load_bytes(skb, at, &type, 1))
		return 1;
	end = at + ((__u32)head[4] << 8 | head[5]);
	/* Options come after 8 bytes, and a target address if there is one. */
	switch (type) {
	case ND_ROUTER_SOLICIT:
		return nd_is_honest(skb, set, at + 8, end);
	case ND_NEIGHBOR_SOLICIT:
	case ND_NEIGHBOR_ADVERT:
		return nd_is_honest(skb, set, at + 24, end);
	}
	return 1;
}

#endif

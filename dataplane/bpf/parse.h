/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What a packet is, for everything but the fast path: kinds, addresses, the
 * neighbour protocols by their RFCs.
 *
 * Reads through bpf_skb_load_bytes(), wherever the bytes lie. A packet whose
 * headers cannot be read is KIND_TRUNCATED, never something else.
 */
#ifndef WEIR_PARSE_H
#define WEIR_PARSE_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <bpf/bpf_endian.h>

#include "tuple.h"

#define ND_ROUTER_SOLICIT 133
#define ND_ROUTER_ADVERT 134
#define ND_NEIGHBOR_SOLICIT 135
#define ND_NEIGHBOR_ADVERT 136
#define ND_REDIRECT 137
#define MLD_QUERY 130
#define MLD_REPORT 131
#define MLD_DONE 132
#define MLD2_REPORT 143

enum packet_kind {
	KIND_IP,         /* judged by a worker */
	KIND_NEIGHBOUR,  /* ARP, ND, MLD, as their RFCs have them */
	KIND_ROUTER,     /* router advertisement, redirect */
	KIND_L2,         /* not IP: tagged, LLC/SNAP, unknown EtherType */
	KIND_TRUNCATED,
};

struct packet {
	/* Of ARP, src is what the sender says is its own; all zero if nothing. */
	struct address src, dst;
	/* Chooses the worker: hash of the two addresses of the packet, or, for an
	 * ICMP error, of the packet that it quotes. */
	__u64 spread;
	enum packet_kind kind;
	__u8 is_advert;    /* a neighbour advertisement: its target is a claim */
	__u8 is_extended;  /* IPv6 with extension headers: perhaps a fragment */
	__u16 vouched;     /* a cached verdict allows it */
};

/* Keyed multilinear hash of one address; the sum over both is symmetric, so
 * either direction of a connection gives the same. The key keeps a sender
 * from choosing addresses that all land on one worker. */
static __always_inline __u64 hash_address(const struct weir_config *c, const struct address *a)
{
	__u64 h = c->hash_key[0];

	h += c->hash_key[1] * a->word[0];
	h += c->hash_key[2] * a->word[1];
	h += c->hash_key[3] * a->word[2];
	h += c->hash_key[4] * a->word[3];
	h ^= h >> 32;
	return h * (c->hash_key[5] | 1);
}

static __always_inline __u64 hash_pair(const struct weir_config *c, const struct address *a,
				       const struct address *b)
{
	return hash_address(c, a) + hash_address(c, b);
}

static __always_inline void map_v4(struct address *a, __u32 v4)
{
	a->word[0] = 0;
	a->word[1] = 0;
	a->word[2] = bpf_htonl(0xffff);
	a->word[3] = v4;
}

static __always_inline int is_icmp_error(__u8 type)
{
	/* RFC 792: unreachable, source quench, redirect, time exceeded,
	 * parameter problem. */
	return type == 3 || type == 4 || type == 5 || type == 11 || type == 12;
}

static __always_inline void parse_v4(struct __sk_buff *skb, const struct weir_config *c,
				     struct packet *p)
{
	struct address quoted[2];
	__u8 header[20], icmp;
	__u32 l4, addrs[2];

	if (bpf_skb_load_bytes(skb, ETH_HLEN, header, sizeof(header))) {
		p->kind = KIND_TRUNCATED;
		return;
	}
	__builtin_memcpy(addrs, header + 12, sizeof(addrs));
	map_v4(&p->src, addrs[0]);
	map_v4(&p->dst, addrs[1]);
	p->spread = hash_pair(c, &p->src, &p->dst);
	p->kind = KIND_IP;
	/* The first fragment of an error goes where the others do, which quote nothing. */
	if (header[9] != IPPROTO_ICMP || (header[6] & 0x3f) || header[7])
		return;
	l4 = ETH_HLEN + (header[0] & 15) * 4;
	if (bpf_skb_load_bytes(skb, l4, &icmp, 1) || !is_icmp_error(icmp))
		return;
	if (bpf_skb_load_bytes(skb, l4 + 8 + 12, addrs, sizeof(addrs)))
		return;
	map_v4(&quoted[0], addrs[0]);
	map_v4(&quoted[1], addrs[1]);
	p->spread = hash_pair(c, &quoted[0], &quoted[1]);
}

static __always_inline int is_multicast6(const struct address *a)
{
	return (a->word[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000);
}

static __always_inline int is_link_local6(const struct address *a)
{
	return (a->word[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

/* What is shaped as the RFC demands is the link's own business; anything else under
 * these types is a packet like any other, and a channel if it passed unjudged. */
static __always_inline void classify_icmp6(struct __sk_buff *skb, struct packet *p, __u32 l4,
					   __u8 type, __u8 hop_limit)
{
	switch (type) {
	case ND_NEIGHBOR_SOLICIT:
		/* RFC 4861 7.1: anything but 255 was forwarded, so is not ours. */
		if (hop_limit != 255)
			return;
		break;
	case ND_NEIGHBOR_ADVERT:
		if (hop_limit != 255)
			return;
		p->is_advert = 1;
		break;
	case ND_ROUTER_SOLICIT:
		if (hop_limit != 255 || !is_multicast6(&p->dst))
			return;
		__builtin_memset(&p->src, 0, sizeof(p->src));
		break;
	case MLD_QUERY:
	case MLD_REPORT:
	case MLD_DONE:
	case MLD2_REPORT:
		/* RFC 3810 5: hop limit 1, to a group. */
		if (hop_limit != 1 || !is_multicast6(&p->dst))
			return;
		__builtin_memset(&p->src, 0, sizeof(p->src));
		break;
	case ND_ROUTER_ADVERT:
	case ND_REDIRECT:
		p->kind = KIND_ROUTER;
		return;
	default:
		return;
	}
	p->kind = KIND_NEIGHBOUR;
}

static __always_inline void parse_v6(struct __sk_buff *skb, const struct weir_config *c,
				     struct packet *p)
{
	struct address quoted[2];
	__u8 header[40], ext[2], icmp, next;
	__u32 l4 = ETH_HLEN + sizeof(header);

	if (bpf_skb_load_bytes(skb, ETH_HLEN, header, sizeof(header))) {
		p->kind = KIND_TRUNCATED;
		return;
	}
	__builtin_memcpy(&p->src, header + 8, sizeof(p->src));
	__builtin_memcpy(&p->dst, header + 24, sizeof(p->dst));
	p->spread = hash_pair(c, &p->src, &p->dst);
	p->kind = KIND_IP;
	next = header[6];
	p->is_extended = is_extension(next);
	/* MLD carries a router alert in an 8-byte hop-by-hop header (RFC 3810
	 * 5). Longer chains are left to the worker's parser. */
	if (next == NEXTHDR_HOP && !bpf_skb_load_bytes(skb, l4, ext, 2) && ext[1] == 0) {
		next = ext[0];
		l4 += 8;
	}
	if (next != NEXTHDR_ICMPV6 || bpf_skb_load_bytes(skb, l4, &icmp, 1))
		return;
	if (icmp >= 128) {
		/* No neighbour discovery behind a hop-by-hop header: nobody sends it so. */
		if (next == header[6] || icmp < ND_ROUTER_SOLICIT || icmp > ND_REDIRECT)
			classify_icmp6(skb, p, l4, icmp, header[7]);
		return;
	}
	/* RFC 4443: types below 128 are errors and quote the packet. */
	if (bpf_skb_load_bytes(skb, l4 + 8 + 8, quoted, sizeof(quoted)))
		return;
	p->spread = hash_pair(c, &quoted[0], &quoted[1]);
}

/* ARP for IPv4 over Ethernet (RFC 826); no other kind has any business here. */
static __always_inline void parse_arp(struct __sk_buff *skb, struct packet *p)
{
	__u8 arp[18]; /* up to and with the sender's protocol address */
	__u32 sender;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, arp, sizeof(arp))) {
		p->kind = KIND_TRUNCATED;
		return;
	}
	if (arp[2] != 0x08 || arp[3] != 0x00 || arp[4] != ETH_ALEN || arp[5] != 4) {
		p->kind = KIND_L2;
		return;
	}
	__builtin_memcpy(&sender, arp + 14, sizeof(sender));
	/* 0.0.0.0 asks without claiming anything (RFC 5227). */
	if (sender)
		map_v4(&p->src, sender);
	p->kind = KIND_NEIGHBOUR;
}

static __always_inline void parse(struct __sk_buff *skb, const struct weir_config *c,
				  struct packet *p)
{
	__be16 ethertype;

	/* A tag that the device took off the frame counts as well as one in it:
	 * either can carry IP past a parser (CVE-2021-27853). */
	if (skb->vlan_present) {
		p->kind = KIND_L2;
		return;
	}
	if (bpf_skb_load_bytes(skb, 12, &ethertype, sizeof(ethertype))) {
		p->kind = KIND_TRUNCATED;
		return;
	}
	if (ethertype == bpf_htons(ETH_P_IP))
		parse_v4(skb, c, p);
	else if (ethertype == bpf_htons(ETH_P_IPV6))
		parse_v6(skb, c, p);
	else if (ethertype == bpf_htons(ETH_P_ARP))
		parse_arp(skb, p);
	else
		p->kind = KIND_L2;
}

#endif

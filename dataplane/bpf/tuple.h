/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The 5-tuple of a packet that the fast path understands.
 *
 * Plain IPv4 without options and plain IPv6 without extension headers, no
 * fragment, no ICMP error: everything else, and whatever contradicts itself, is
 * left to the worker's parser (src/parse). Where both read a packet they read the
 * same 5-tuple; what the worker refuses is not read here (tests/tuple_differential).
 *
 * Reads the packet directly, which is several times cheaper than
 * bpf_skb_load_bytes(): this code runs twice for every packet between two pods.
 */
#ifndef WEIR_TUPLE_H
#define WEIR_TUPLE_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <bpf/bpf_endian.h>

#include "maps.h"

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

#define IPPROTO_ICMPV6 58

/* What may come next to an IPv6 header (IANA). */
#define NEXTHDR_HOP 0
#define NEXTHDR_FRAGMENT 44
#define NEXTHDR_AUTH 51
#define NEXTHDR_ICMPV6 IPPROTO_ICMPV6
#define NEXTHDR_NONE 59

/* SCTP's chunk types (RFC 9260 section 3.2). */
#define SCTP_INIT 1
#define SCTP_INIT_ACK 2
#define SCTP_ABORT 6
#define SCTP_SHUTDOWN 7
#define SCTP_SHUTDOWN_ACK 8
#define SCTP_SHUTDOWN_COMPLETE 14

/* Enough for every header that is read here: Ethernet, IPv6, TCP. */
#define HEADERS (ETH_HLEN + 40 + 20)

/* A key to be found in a table (flow.h), and what was met on the way. */
struct search {
	__u64 key[5];      /* an entry's key words: two for IPv4, five for IPv6 */
	__u64 hash;
	__u32 v6;
	__u32 in_verdicts; /* in the verdict cache, not in the flow table */
	__u64 free_ctl;    /* of the free place to take */
	__u32 free_place;
	__u32 has_free;    /* 0: there is none */
};

struct tuple {
	struct search s;
	__u8 from_hi;      /* the sender is side hi of the key */
	__u8 protocol;
	__u8 tcp_flags;    /* SCTP: what its first chunk would be in TCP; else 0 */
};

static __always_inline __u64 mix_pair(__u64 h, const __u64 *key, int pair, __u64 word)
{
	h += key[1 + 2 * pair] * (word & 0xffffffff);
	return h + key[2 + 2 * pair] * (word >> 32);
}

/* Keyed multilinear hash with a finalizer: table/src/flow/key.rs, HashKey. */
static __always_inline __u64 hash_words(const struct weir_config *c, const __u64 *words, int n)
{
	__u64 h = c->hash_key[0];

#pragma unroll
	for (int i = 0; i < n; i++)
		h = mix_pair(h, c->hash_key, i, words[i]);
	h ^= h >> 32;
	h *= 0xd6e8feb86659fd93ULL;
	return h ^ h >> 32;
}

/* Ports as they stand in the packet's host order, and TCP's flags. */
struct ports {
	__u16 src, dst;
};

/* UDP's length must fit; UDP-Lite's covers that much of the packet, 0 all of it (RFC 3828). */
static __always_inline int udp_length_holds(const __u8 *l4, __u32 length, __u8 protocol)
{
	__u32 claimed = bpf_ntohs(*(const __be16 *)(l4 + 4));

	if (claimed >= 8 && claimed <= length)
		return 1;
	return !claimed && protocol == IPPROTO_UDPLITE && length >= 8;
}

/* What an SCTP chunk is in the words of TCP: src/parse/transport.rs, sctp_flags(). */
static __always_inline __u8 sctp_flags(__u8 chunk)
{
	switch (chunk) {
	case SCTP_INIT:
		return TCP_SYN;
	case SCTP_INIT_ACK:
		return TCP_SYN | TCP_ACK;
	case SCTP_ABORT:
		return TCP_RST;
	case SCTP_SHUTDOWN:
	case SCTP_SHUTDOWN_ACK:
	case SCTP_SHUTDOWN_COMPLETE:
		return TCP_FIN;
	default:
		return TCP_ACK;
	}
}

/* Reads what follows the IP header, `length` bytes by what that says, which may be more
 * than lie in the buffer's head; 0 if the packet is none for the fast path. */
static __always_inline int read_ports(const __u8 *l4, const void *end, __u32 length, __u8 icmp,
				      struct tuple *t, struct ports *p)
{
	/* Extension headers, and the ICMP that does not belong to the family. */
	const __u8 foreign = icmp == IPPROTO_ICMP ? IPPROTO_ICMPV6 : IPPROTO_ICMP;

	p->src = 0;
	p->dst = 0;
	t->tcp_flags = 0;
	if (t->protocol == IPPROTO_TCP) {
		__u32 header;
		__u8 flags;

		if ((void *)(l4 + 20) > end)
			return 0;
		flags = l4[13];
		header = l4[12] >> 4 << 2;
		if (header < 20 || header > length ||
		    ((flags & TCP_SYN) && (flags & (TCP_FIN | TCP_RST))))
			return 0;
		t->tcp_flags = flags;
	} else if (t->protocol == IPPROTO_UDP || t->protocol == IPPROTO_UDPLITE) {
		if ((void *)(l4 + 8) > end || !udp_length_holds(l4, length, t->protocol))
			return 0;
	} else if (t->protocol == IPPROTO_SCTP) {
		__u32 chunk;

		if ((void *)(l4 + 16) > end || length < 16)
			return 0;
		/* An INIT is alone in its packet (RFC 9260 section 8.5.1). */
		chunk = ((__u32)bpf_ntohs(*(const __be16 *)(l4 + 14)) + 3) & ~3U;
		if (l4[12] == SCTP_INIT && length != 12 + chunk)
			return 0;
		t->tcp_flags = sctp_flags(l4[12]);
	} else if (t->protocol == icmp) {
		if ((void *)(l4 + 8) > end || length < 8)
			return 0;
		/* Echo and its reply; the identifier stands for both ports. */
		if (icmp == IPPROTO_ICMP ? (l4[0] != 0 && l4[0] != 8) :
					   (l4[0] != 128 && l4[0] != 129))
			return 0;
		p->src = bpf_ntohs(*(const __be16 *)(l4 + 4));
		p->dst = p->src;
		return 1;
	} else {
		return t->protocol != foreign;
	}
	p->src = bpf_ntohs(*(const __be16 *)l4);
	p->dst = bpf_ntohs(*(const __be16 *)(l4 + 2));
	return 1;
}

static __always_inline __u64 ports_word(__u16 lo, __u16 hi, __u8 protocol)
{
	return (__u64)lo | (__u64)hi << WEIR_PORT_HI_SHIFT | (__u64)protocol << WEIR_PROTOCOL_SHIFT;
}

/* A TCP packet that the kernel has yet to cut may be longer than an IP header can say, and
 * then claims 0: receivers on this kernel go by the buffer (iph_totlen(), ipv6_payload_len()). */
static __always_inline int is_uncut_tcp(const struct __sk_buff *skb, __u8 protocol)
{
	return protocol == IPPROTO_TCP && skb->gso_size;
}

static __always_inline int tuple_v4(const struct __sk_buff *skb, const struct weir_config *c,
				    const __u8 *ip, const void *end, struct tuple *t)
{
	__u32 present = skb->len - ETH_HLEN, length;
	struct ports p;
	__u64 src, dst;

	if ((void *)(ip + 20) > end)
		return 0;
	/* Options and fragments take the long way. */
	if (ip[0] != 0x45 || (*(const __be16 *)(ip + 6) & bpf_htons(0x3fff)))
		return 0;
	t->s.v6 = 0;
	t->s.in_verdicts = 0;
	t->protocol = ip[9];
	length = bpf_ntohs(*(const __be16 *)(ip + 2));
	if (!length && is_uncut_tcp(skb, t->protocol))
		length = present;
	if (length < 20 || length > present)
		return 0;
	if (!read_ports(ip + 20, end, length - 20, IPPROTO_ICMP, t, &p))
		return 0;
	src = bpf_ntohl(*(const __be32 *)(ip + 12));
	dst = bpf_ntohl(*(const __be32 *)(ip + 16));
	/* A group, the broadcast address, or what nobody has. */
	if (src >= 0xe0000000)
		return 0;
	t->from_hi = src > dst || (src == dst && p.src > p.dst);
	if (t->from_hi) {
		t->s.key[0] = dst | src << 32;
		t->s.key[1] = ports_word(p.dst, p.src, t->protocol);
	} else {
		t->s.key[0] = src | dst << 32;
		t->s.key[1] = ports_word(p.src, p.dst, t->protocol);
	}
	t->s.hash = hash_words(c, t->s.key, WEIR_FLOW4_KEY_WORDS);
	return 1;
}

/* What may stand in "next header" without being a transport (RFC 8200 and IANA). */
static __always_inline int is_extension(__u8 next)
{
	return next == NEXTHDR_HOP || next == 43 || next == NEXTHDR_FRAGMENT ||
	       next == NEXTHDR_AUTH || next == NEXTHDR_NONE || next == 60 ||
	       next == 135 || next == 139 || next == 140;
}

/* Extension headers that are looked behind: as many as the workers' parser takes. */
#define EXTENSIONS 8

/* Where the transport of an IPv6 packet begins whose first extension header is `next`, which
 * becomes its protocol; 0 if there are too many headers, or fewer bytes. The rest of a
 * fragmented packet has none (NEXTHDR_NONE). */
static __always_inline __u32 transport6(struct __sk_buff *skb, __u8 *next)
{
	__u32 at = ETH_HLEN + 40;
	__u8 head[4];

	for (int i = 0; i < EXTENSIONS; i++) {
		if (!is_extension(*next) || *next == NEXTHDR_NONE)
			return at;
		if (bpf_skb_load_bytes(skb, at, head, sizeof(head)))
			return 0;
		if (*next == NEXTHDR_FRAGMENT && (head[2] || head[3] & 0xf8)) {
			*next = NEXTHDR_NONE;
			return at + 8;
		}
		if (*next == NEXTHDR_FRAGMENT)
			at += 8;
		else if (*next == NEXTHDR_AUTH)
			at += (head[1] + 2) * 4;
		else
			at += (head[1] + 1) * 8;
		*next = head[0];
	}
	return is_extension(*next) ? 0 : at;
}

static __always_inline __u64 load_be64(const __u8 *p)
{
	return (__u64)bpf_ntohl(*(const __be32 *)p) << 32 | bpf_ntohl(*(const __be32 *)(p + 4));
}

static __always_inline int tuple_v6(const struct __sk_buff *skb, const struct weir_config *c,
				    const __u8 *ip, const void *end, struct tuple *t)
{
	__u32 present = skb->len - ETH_HLEN - 40, length;
	__u64 src[2], dst[2];
	struct ports p;

	if ((void *)(ip + 40) > end)
		return 0;
	if (ip[0] >> 4 != 6 || is_extension(ip[6]))
		return 0;
	t->s.v6 = 1;
	t->s.in_verdicts = 0;
	t->protocol = ip[6];
	length = bpf_ntohs(*(const __be16 *)(ip + 4));
	if (!length && is_uncut_tcp(skb, t->protocol))
		length = present;
	if (!length || length > present)
		return 0;
	if (!read_ports(ip + 40, end, length, IPPROTO_ICMPV6, t, &p))
		return 0;
	src[0] = load_be64(ip + 8);
	src[1] = load_be64(ip + 16);
	dst[0] = load_be64(ip + 24);
	dst[1] = load_be64(ip + 32);
	/* A group as the source; IPv4-mapped addresses, and others in ::/64, which are on no
	 * wire (RFC 4291 section 2.5). */
	if (src[0] >> 56 == 0xff || !src[0] || !dst[0])
		return 0;
	t->from_hi = src[0] != dst[0] ? src[0] > dst[0] :
		     src[1] != dst[1] ? src[1] > dst[1] : p.src > p.dst;
	if (t->from_hi) {
		t->s.key[0] = dst[0];
		t->s.key[1] = dst[1];
		t->s.key[2] = src[0];
		t->s.key[3] = src[1];
		t->s.key[4] = ports_word(p.dst, p.src, t->protocol);
	} else {
		t->s.key[0] = src[0];
		t->s.key[1] = src[1];
		t->s.key[2] = dst[0];
		t->s.key[3] = dst[1];
		t->s.key[4] = ports_word(p.src, p.dst, t->protocol);
	}
	t->s.hash = hash_words(c, t->s.key, WEIR_FLOW6_KEY_WORDS);
	return 1;
}

enum family {
	FAMILY_NONE, /* none for the fast path */
	FAMILY_V4,
	FAMILY_V6,
};

/* Moves the headers to where read_tuple() looks for them. Seldom needed and seldom cheap:
 * the head of a packet that TCP keeps for retransmission has to be copied for it. */
static __always_inline void pull_headers(struct __sk_buff *skb)
{
	const __u8 *data = (const __u8 *)(long)skb->data;
	const __u8 *end = (const __u8 *)(long)skb->data_end;
	__u32 want = skb->len;

	if (want > HEADERS)
		want = HEADERS;
	if (data + want > end)
		bpf_skb_pull_data(skb, want);
}

/*
 * Reads the 5-tuple of an IPv4 packet, if it is one for the fast path and its headers lie
 * in one piece at the head of the buffer.
 */
static __always_inline int read_tuple4(struct __sk_buff *skb, const struct weir_config *c,
				       struct tuple *t)
{
	const __u8 *data = (const __u8 *)(long)skb->data;
	const __u8 *end = (const __u8 *)(long)skb->data_end;

	if (data + ETH_HLEN > end || skb->vlan_present)
		return 0;
	if (*(const __be16 *)(data + 12) != bpf_htons(ETH_P_IP))
		return 0;
	return tuple_v4(skb, c, data + ETH_HLEN, end, t);
}

/* The same for IPv6. */
static __always_inline int read_tuple6(struct __sk_buff *skb, const struct weir_config *c,
				       struct tuple *t)
{
	const __u8 *data = (const __u8 *)(long)skb->data;
	const __u8 *end = (const __u8 *)(long)skb->data_end;

	if (data + ETH_HLEN > end || skb->vlan_present)
		return 0;
	if (*(const __be16 *)(data + 12) != bpf_htons(ETH_P_IPV6))
		return 0;
	return tuple_v6(skb, c, data + ETH_HLEN, end, t);
}

static __always_inline enum family read_tuple(struct __sk_buff *skb, const struct weir_config *c,
					      struct tuple *t)
{
	if (read_tuple4(skb, c, t))
		return FAMILY_V4;
	return read_tuple6(skb, c, t) ? FAMILY_V6 : FAMILY_NONE;
}

/*
 * Turns the search for the packet's flow into that for the cached verdict about its
 * connection, its sender as the one who opens it: table/src/flow/verdicts.rs, VerdictKey.
 */
static __always_inline void search_verdict(const struct weir_config *c, struct tuple *t)
{
	__u64 *key = t->s.key;
	__u64 ports = t->s.v6 ? key[4] : key[1];
	__u16 dport = t->from_hi ? (__u16)ports : (__u16)(ports >> WEIR_PORT_HI_SHIFT);

	if (t->protocol == IPPROTO_ICMP || t->protocol == IPPROTO_ICMPV6)
		dport = 0; /* echo: no port, but an identifier */
	ports = ports_word(0, dport, t->protocol);
	t->s.in_verdicts = 1;
	if (!t->s.v6) {
		key[0] = t->from_hi ? key[0] >> 32 | key[0] << 32 : key[0];
		key[1] = ports;
		t->s.hash = hash_words(c, key, WEIR_FLOW4_KEY_WORDS);
		return;
	}
	if (t->from_hi) {
		__u64 high = key[0], low = key[1];

		key[0] = key[2];
		key[1] = key[3];
		key[2] = high;
		key[3] = low;
	}
	key[4] = ports;
	t->s.hash = hash_words(c, key, WEIR_FLOW6_KEY_WORDS);
}

#endif

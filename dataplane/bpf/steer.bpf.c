// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Weir's steering program: the part of the packet path that runs in the kernel.
 *
 *   weir_from_pod  tc ingress of a pod's host-side veth (the pod sends)
 *   weir_to_pod    tc egress  of a pod's host-side veth (the pod receives)
 *   weir_return    tc ingress of weir0 (a worker accepted the frame)
 *   weir_deliver   XDP on weir1 (hand the frame to the worker's AF_XDP socket)
 *
 * A hook answers one question: is this packet decided already? Decided packets
 * carry the mark that weir_return set and pass. The node's own traffic and the
 * neighbour protocols pass without a worker, so that a dead worker never fails
 * the kubelet's probes. Everything else gets a shim that says where it came
 * from and goes to weir0, whose other end is read by the workers.
 *
 * Invariants
 *  - Fail closed: every path that cannot be judged ends in TC_ACT_SHOT, except
 *    when the operator chose fail_open and no worker serves.
 *  - The mark is trusted because the kernel clears skb->mark whenever a packet
 *    crosses into another network namespace (skb_scrub_packet), so a pod
 *    cannot bring one along.
 *  - Both directions of a connection, its fragments and the ICMP errors that
 *    quote it hash to the same worker: the hash covers the two addresses only
 *    and is symmetric in them.
 *  - The flow table's arrays are declared here and shared with the workers
 *    through mmap; the lookup on the hook's fast path belongs between
 *    "decided" and "punt".
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "weir.h"

#define PASS TC_ACT_UNSPEC /* let the programs after this one have their say */
#define DROP TC_ACT_SHOT

/* In skb->cb[0] between weir_return and the hook it redirects to: a value that
 * no other user of the control buffer leaves there by chance. */
#define CB_COVERS_BOTH 0x77656972

#define NEXTHDR_HOP 0
#define NEXTHDR_ICMPV6 58
#define ND_ROUTER_SOLICIT 133
#define ND_ROUTER_ADVERT 134
#define ND_NEIGHBOR_SOLICIT 135
#define ND_NEIGHBOR_ADVERT 136
#define ND_REDIRECT 137
#define MLD_QUERY 130
#define MLD_REPORT 131
#define MLD_DONE 132
#define MLD2_REPORT 143

/* ---- maps ------------------------------------------------------------- */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct weir_config);
} weir_config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, WEIR_MAX_WORKERS);
	__type(key, __u32);
	__type(value, __u32);
} weir_xsks SEC(".maps");

/* An address in IPv6 form; IPv4 is mapped (::ffff:a.b.c.d). */
struct address {
	__u32 word[4];
};

/* A pod's own address, by the device at which it speaks. */
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

struct flow4 {
	__u64 word[8];
};
struct flow6 {
	__u64 word[16];
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

static __always_inline void count(__u32 counter)
{
	__u64 *n = bpf_map_lookup_elem(&weir_steering, &counter);

	if (n)
		(*n)++;
}

static __always_inline int drop(__u32 counter)
{
	count(counter);
	return DROP;
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

/* ---- parsing ---------------------------------------------------------- */

enum packet_kind {
	KIND_IP,         /* judged by a worker */
	KIND_NEIGHBOUR,  /* ARP, ND, MLD, as their RFCs have them */
	KIND_ROUTER,     /* router advertisement, redirect */
	KIND_L2,         /* not IP: tagged, LLC/SNAP, unknown EtherType */
	KIND_TRUNCATED,
};

struct packet {
	struct address src, dst;
	/* The addresses that choose the worker: of the packet, or, for an ICMP
	 * error, of the packet that it quotes. */
	struct address hash_a, hash_b;
	enum packet_kind kind;
	/* Of ARP and ND: what the sender says is its own; all zero if nothing. */
	struct address claim;
};

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

static __always_inline void parse_v4(struct __sk_buff *skb, struct packet *p)
{
	__u8 header[20], icmp;
	__u32 l4, addrs[2];

	if (bpf_skb_load_bytes(skb, ETH_HLEN, header, sizeof(header))) {
		p->kind = KIND_TRUNCATED;
		return;
	}
	__builtin_memcpy(addrs, header + 12, sizeof(addrs));
	map_v4(&p->src, addrs[0]);
	map_v4(&p->dst, addrs[1]);
	p->hash_a = p->src;
	p->hash_b = p->dst;
	p->kind = KIND_IP;
	if (header[9] != IPPROTO_ICMP || (header[6] & 0x1f) || header[7])
		return;
	l4 = ETH_HLEN + (header[0] & 15) * 4;
	if (bpf_skb_load_bytes(skb, l4, &icmp, 1) || !is_icmp_error(icmp))
		return;
	if (bpf_skb_load_bytes(skb, l4 + 8 + 12, addrs, sizeof(addrs)))
		return;
	map_v4(&p->hash_a, addrs[0]);
	map_v4(&p->hash_b, addrs[1]);
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
		p->claim = p->src;
		break;
	case ND_NEIGHBOR_ADVERT:
		if (hop_limit != 255)
			return;
		if (bpf_skb_load_bytes(skb, l4 + 8, &p->claim, sizeof(p->claim))) {
			p->kind = KIND_TRUNCATED;
			return;
		}
		break;
	case ND_ROUTER_SOLICIT:
		if (hop_limit != 255 || !is_multicast6(&p->dst))
			return;
		break;
	case MLD_QUERY:
	case MLD_REPORT:
	case MLD_DONE:
	case MLD2_REPORT:
		/* RFC 3810 5: hop limit 1, to a group. */
		if (hop_limit != 1 || !is_multicast6(&p->dst))
			return;
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

static __always_inline void parse_v6(struct __sk_buff *skb, struct packet *p)
{
	__u8 header[40], ext[2], icmp, next;
	__u32 l4 = ETH_HLEN + sizeof(header);

	if (bpf_skb_load_bytes(skb, ETH_HLEN, header, sizeof(header))) {
		p->kind = KIND_TRUNCATED;
		return;
	}
	__builtin_memcpy(&p->src, header + 8, sizeof(p->src));
	__builtin_memcpy(&p->dst, header + 24, sizeof(p->dst));
	p->hash_a = p->src;
	p->hash_b = p->dst;
	p->kind = KIND_IP;
	next = header[6];
	/* MLD carries a router alert in an 8-byte hop-by-hop header (RFC 3810
	 * 5). Longer chains are left to the worker's parser. */
	if (next == NEXTHDR_HOP && !bpf_skb_load_bytes(skb, l4, ext, 2) && ext[1] == 0) {
		next = ext[0];
		l4 += 8;
	}
	if (next != NEXTHDR_ICMPV6 || bpf_skb_load_bytes(skb, l4, &icmp, 1))
		return;
	if (icmp >= 128) {
		classify_icmp6(skb, p, l4, icmp, header[7]);
		return;
	}
	/* RFC 4443: types below 128 are errors and quote the packet. */
	if (bpf_skb_load_bytes(skb, l4 + 8 + 8, header, 32))
		return;
	__builtin_memcpy(&p->hash_a, header, sizeof(p->hash_a));
	__builtin_memcpy(&p->hash_b, header + 16, sizeof(p->hash_b));
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
		map_v4(&p->claim, sender);
	p->kind = KIND_NEIGHBOUR;
}

static __always_inline void parse(struct __sk_buff *skb, struct packet *p)
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
		parse_v4(skb, p);
	else if (ethertype == bpf_htons(ETH_P_IPV6))
		parse_v6(skb, p);
	else if (ethertype == bpf_htons(ETH_P_ARP))
		parse_arp(skb, p);
	else
		p->kind = KIND_L2;
}

/* ---- choosing the worker ---------------------------------------------- */

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

static __always_inline __u32 worker_of(const struct weir_config *c, const struct packet *p)
{
	__u64 h = hash_address(c, &p->hash_a) + hash_address(c, &p->hash_b);

	return (__u32)(((h >> 32) * c->workers) >> 32);
}

static __always_inline int serving(const struct weir_config *c, __u32 worker)
{
	if (!c->punt_ifindex || worker >= WEIR_MAX_WORKERS)
		return 0;
	/* A closed socket leaves the map at once: this notices a killed daemon,
	 * the heartbeat one that hangs. */
	if (!bpf_map_lookup_elem(&weir_xsks, &worker))
		return 0;
	/* Signed: the worker may write a later time than ours between the two
	 * reads, and that is a sign of life, not of 584 years of silence. */
	return (__s64)(bpf_ktime_get_ns() - c->heartbeat_ns[worker]) <
	       (__s64)c->heartbeat_timeout_ns;
}

/* ---- the hooks on a pod's veth ---------------------------------------- */

static __always_inline int punt(struct __sk_buff *skb, struct weir_config *c,
				const struct packet *p, __u8 direction)
{
	struct weir_shim shim = {
		.ifindex = skb->ifindex,
		.direction = direction,
		.gso_size = bpf_htons((__u16)skb->gso_size),
		.tag = bpf_htons(WEIR_SHIM_TAG),
	};
	__u32 worker = c->workers ? worker_of(c, p) : 0;

	if (!c->workers || !serving(c, worker)) {
		if (c->fail_open)
			return pass(WEIR_STEER_PASS_NO_WORKER);
		return drop(WEIR_STEER_DROP_NO_WORKER);
	}
	shim.worker = worker;
	if (bpf_skb_change_head(skb, sizeof(shim), 0) ||
	    bpf_skb_store_bytes(skb, 0, &shim, sizeof(shim), 0))
		return drop(WEIR_STEER_DROP_SHIM);
	count(WEIR_STEER_PUNTED);
	skb->queue_mapping = worker + 1; /* 0 means "not chosen" */
	return bpf_redirect((__u32)c->punt_ifindex, 0);
}

static __always_inline int is_node_address(const struct address *a)
{
	return bpf_map_lookup_elem(&weir_node_addrs, a) != 0;
}

static __always_inline int is_own(struct __sk_buff *skb, const struct address *a)
{
	struct pod_address key = { .address = *a, .ifindex = skb->ifindex };

	return bpf_map_lookup_elem(&weir_pod_addrs, &key) != 0;
}

/* To everyone on the link or to a group: judged at each receiver's hook. */
static __always_inline int is_group(const struct address *a)
{
	if (a->word[0] || a->word[1] || a->word[2] != bpf_htonl(0xffff))
		return is_multicast6(a);
	return (a->word[3] & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000) ||
	       a->word[3] == 0xffffffff;
}

/* Whether the pod may say of itself what it says in ARP or ND. */
static __always_inline int may_claim(struct __sk_buff *skb, const struct address *a)
{
	if (!a->word[0] && !a->word[1] && !a->word[2] && !a->word[3])
		return 1;
	return is_link_local6(a) || is_own(skb, a);
}

/* Between the node and its own pod. "The node" is what was generated here, without an
 * ingress interface, under an address of the node's: neither alone proves it (IPv6
 * fragments that the node forwards may have lost their interface). */
static __always_inline int is_node_traffic(struct __sk_buff *skb, const struct packet *p,
					   __u8 direction)
{
	if (direction == WEIR_TO_POD)
		return !skb->ingress_ifindex && is_node_address(&p->src);
	return is_node_address(&p->dst) && (is_own(skb, &p->src) || is_link_local6(&p->src));
}

/* A worker has decided this packet. */
static __always_inline int decided(struct __sk_buff *skb, struct weir_config *c,
				   const struct packet *p, __u8 direction)
{
	if (direction == WEIR_FROM_POD) {
		/* weir_return left a sign in the control buffer if the verdict
		 * holds at the receiver's hook as well; then the mark travels
		 * on. Otherwise it must not: a destination NAT could take the
		 * packet past a pod's policy. Nothing between the redirect and
		 * this hook writes there; were the sign lost, the packet would
		 * be judged once more, no worse. */
		if (skb->cb[0] != CB_COVERS_BOTH)
			skb->mark &= ~(__u32)c->mark_mask;
		return pass(WEIR_STEER_DECIDED);
	}
	skb->mark &= ~(__u32)c->mark_mask;
	/* Decided for a receiver, which must be this one: whoever made the link
	 * believe that it has another's address does not get its packets. */
	if (p->kind != KIND_IP || !(is_own(skb, &p->dst) || is_group(&p->dst)))
		return drop(WEIR_STEER_DROP_RECEIVER);
	return pass(WEIR_STEER_DECIDED);
}

static __always_inline int steer(struct __sk_buff *skb, __u8 direction)
{
	struct weir_config *c = config();
	struct packet p = {};

	if (!c)
		return drop(WEIR_STEER_DROP_NO_CONFIG);
	parse(skb, &p);
	if ((skb->mark & (__u32)c->mark_mask) == (__u32)c->mark_value)
		return decided(skb, c, &p, direction);

	switch (p.kind) {
	case KIND_L2:
		return drop(WEIR_STEER_DROP_L2);
	case KIND_TRUNCATED:
		return drop(WEIR_STEER_DROP_TRUNCATED);
	case KIND_NEIGHBOUR:
		if (direction == WEIR_FROM_POD && !may_claim(skb, &p.claim))
			return drop(WEIR_STEER_DROP_ND);
		return pass(WEIR_STEER_NEIGHBOUR);
	case KIND_ROUTER:
		if (direction == WEIR_TO_POD && !skb->ingress_ifindex)
			return pass(WEIR_STEER_NEIGHBOUR);
		return drop(WEIR_STEER_DROP_ND);
	case KIND_IP:
		break;
	}
	if (is_node_traffic(skb, &p, direction))
		return pass(WEIR_STEER_NODE);
	return punt(skb, c, &p, direction);
}

SEC("classifier")
int weir_from_pod(struct __sk_buff *skb)
{
	return steer(skb, WEIR_FROM_POD);
}

SEC("classifier")
int weir_to_pod(struct __sk_buff *skb)
{
	return steer(skb, WEIR_TO_POD);
}

/* ---- the way back ----------------------------------------------------- */

SEC("classifier")
int weir_return(struct __sk_buff *skb)
{
	struct weir_config *c = config();
	struct weir_shim shim;

	if (!c)
		return drop(WEIR_STEER_DROP_NO_CONFIG);
	if (bpf_skb_load_bytes(skb, ETH_HLEN, &shim, sizeof(shim)) ||
	    shim.tag != bpf_htons(WEIR_SHIM_TAG))
		return drop(WEIR_STEER_DROP_SHIM);
	if (bpf_skb_adjust_room(skb, -(__s32)sizeof(shim), BPF_ADJ_ROOM_MAC,
				BPF_F_ADJ_ROOM_FIXED_GSO))
		return drop(WEIR_STEER_DROP_SHIM);
	count(WEIR_STEER_RETURNED);
	skb->mark = (skb->mark & ~(__u32)c->mark_mask) | (__u32)c->mark_value;
	skb->cb[0] = shim.flags & WEIR_SHIM_COVERS_BOTH ? CB_COVERS_BOTH : 0;
	return bpf_redirect(shim.ifindex, shim.direction == WEIR_TO_POD ? 0 : BPF_F_INGRESS);
}

SEC("xdp")
int weir_deliver(struct xdp_md *ctx)
{
	return bpf_redirect_map(&weir_xsks, ctx->rx_queue_index, XDP_DROP);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";

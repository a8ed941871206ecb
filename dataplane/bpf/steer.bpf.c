// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Weir's steering program: the part of the packet path that runs in the kernel.
 *
 *   weir_from_pod  tc ingress of a pod's host-side veth (the pod sends)
 *   weir_to_pod    tc egress  of a pod's host-side veth (the pod receives)
 *   weir_return    tc ingress of weir0 (a worker accepted the frame)
 *   weir_deliver   XDP on weir1 (hand the frame to the worker's AF_XDP socket)
 *   weir_queue     if weir0 is a TAP device: which worker's queue a frame goes to
 *
 * A hook answers one question: is this packet decided already? It is if it
 * belongs to a flow of the flow table whose verdict still holds, or carries the
 * mark that weir_return set. The node's own traffic and the neighbour protocols
 * pass without a worker, so that a dead worker never fails the kubelet's probes.
 * A packet that begins a flow is decided if user space has said of another such
 * connection whether it may pass. Everything else gets a shim that says where it
 * came from and goes to weir0, whose other end is read by the workers.
 *
 *   tuple.h  the 5-tuple of plain packets, read fast
 *   flow.h   flow table and verdict cache
 *   order.h  what keeps packets in order when a flow changes over
 *   drops.h  what becomes of a drop: counted, and told to the daemon
 *   punt.h   the way to the workers: which, whether, how many
 *   link.h   hardware addresses
 *   unfinished.h  what the kernel has yet to write into a packet
 *   parse.h  all other packets: kinds, the neighbour protocols
 *   maps.h   maps, counters
 *   weir.h   what the daemon has to know as well
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
 *  - A packet never overtakes another of its side through the kernel: while
 *    some are out in user space, the next ones follow them there.
 *  - Functions that call each other have 512 bytes of stack together, each rounded up to 32:
 *    kernels before 6.9 count so, later ones with a compiler to 16 (tests/hook_stack.rs).
 */
#include "drops.h"
#include "punt.h"
#include "link.h"
#include "unfinished.h"

/* No verdict of this hook: the packet goes to a worker. */
#define PUNT 0x7fff

/* In skb->cb[0] between weir_return and the hook it redirects to: a value that
 * no other user of the control buffer leaves there by chance, and whether the
 * verdict holds at the receiver's hook as well. */
#define CB_DECIDED 0x77656970
#define CB_COVERS_BOTH 1
/* In skb->cb[1]: the packet was counted, as the one after so many (16 bits). */
#define CB_COUNTED 0x10000

/* ---- whose packet it is ------------------------------------------------ */

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

/* Whether the pod may say of itself what it says in ARP or ND. Of link-local addresses all but
 * the node's: who says to be the router cuts its neighbours off. */
static __always_inline int may_claim(struct __sk_buff *skb, const struct address *a)
{
	if (!a->word[0] && !a->word[1] && !a->word[2] && !a->word[3])
		return 1;
	return is_link_local6(a) ? !is_node_address(a) : is_own(skb, a);
}

/* The target of a neighbour advertisement (RFC 4861 4.4) must be the pod's own. */
static __always_inline int may_advertise(struct __sk_buff *skb)
{
	struct address target;

	if (bpf_skb_load_bytes(skb, ETH_HLEN + 40 + 8, &target, sizeof(target)))
		return 0;
	return may_claim(skb, &target);
}

/* Neighbour discovery is the link's own business only as long as it stays there: what is
 * addressed beyond the node and its pods would be routed, unjudged. ARP has no such
 * destination. */
static __always_inline int stays_on_link(const struct address *dst)
{
	struct pod_address any = { .address = *dst };

	if (!dst->word[0] && !dst->word[1] && !dst->word[2] && !dst->word[3])
		return 1;
	return is_multicast6(dst) || is_link_local6(dst) || is_node_address(dst) ||
	       bpf_map_lookup_elem(&weir_pod_addrs, &any) != 0;
}

static __always_inline int is_set_node_port(__u32 protocol, __u32 port)
{
	__u32 place = protocol * WEIR_NODE_PORT_STRIDE + (port >> 6);
	__u64 *word = bpf_map_lookup_elem(&weir_node_ports, &place);

	return word && (*word >> (port & 63) & 1);
}

/*
 * Whether what a pod sends to an address of the node is, or may be, for a Service behind one of
 * its ports: then a worker judges it, who knows fragments and extension headers, and lets pass
 * what is the node's after all. A global function: see steer_undecided().
 */
__noinline int is_for_node_port(struct __sk_buff *skb)
{
	__u32 l4 = ETH_HLEN + 40, protocol;
	__u8 header[10];
	__be16 port;

	if (!is_set_node_port(0, 0))
		return 0;
	if (bpf_skb_load_bytes(skb, ETH_HLEN, header, sizeof(header)))
		return 1;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		/* All fragments of a packet go one way. */
		if ((header[6] & 0x3f) || header[7])
			return 1;
		l4 = ETH_HLEN + (header[0] & 15) * 4;
		protocol = header[9];
	} else if (is_extension(header[6])) {
		return 1;
	} else {
		protocol = header[6];
	}
	if (protocol == IPPROTO_TCP)
		protocol = 0;
	else if (protocol == IPPROTO_UDP)
		protocol = 1;
	else if (protocol == IPPROTO_SCTP)
		protocol = 2;
	else
		return 0;
	return bpf_skb_load_bytes(skb, l4 + 2, &port, sizeof(port)) ||
	       is_set_node_port(protocol, bpf_ntohs(port));
}

/* Between the node and its own pod. "The node" is what was generated here, without an
 * ingress interface, under an address of the node's: neither alone proves it. (IPv6
 * fragments that the node forwards may have lost their interface, and masquerading gives
 * them its address; but only its own have a socket.) What is for another pod is here by
 * mistake, or because somebody wants it; and a Service behind a port of the node is not the
 * node. */
static __always_inline int is_node_traffic(struct __sk_buff *skb, const struct packet *p,
					   __u8 direction)
{
	if (direction == WEIR_TO_POD)
		return !skb->ingress_ifindex && is_node_address(&p->src) &&
		       (!p->is_extended || skb->sk) &&
		       (is_group(&p->dst) || is_link_local6(&p->dst) || is_own(skb, &p->dst));
	return is_node_address(&p->dst) && (is_own(skb, &p->src) || is_link_local6(&p->src)) &&
	       !is_for_node_port(skb);
}

/* The packet is back from user space: says so in its flow's entry. */
static __always_inline void returned(struct __sk_buff *skb, struct weir_config *c, __u16 before)
{
	struct tuple t = {};
	struct flow f;

	pull_headers(skb);
	if (read_tuple(skb, c, &t) == FAMILY_NONE)
		return;
	read_place(&t.s, find_place(&t.s), &f);
	if (f.rest)
		count_returned(&f, t.from_hi, before);
}

/* A worker has decided this packet. A global function: see steer_undecided(). */
__noinline int steer_decided(struct __sk_buff *skb, __u32 direction)
{
	struct weir_config *c = config();
	struct packet p = {};
	/* weir_return left a sign in the control buffer. Nothing between its
	 * redirect and this hook writes there; were the sign lost, the packet
	 * would be judged once more, no worse. */
	__u32 sign = skb->cb[0];
	__u32 counted = skb->cb[1];

	if (!c)
		return drop(WEIR_STEER_DROP_NO_CONFIG);
	if ((sign & ~CB_COVERS_BOTH) == CB_DECIDED && (counted & CB_COUNTED)) {
		skb->cb[1] = 0;
		returned(skb, c, (__u16)counted);
	}
	if (direction == WEIR_FROM_POD) {
		/* The mark travels on if the verdict holds at the receiver's
		 * hook as well. Otherwise it must not: a destination NAT could
		 * take the packet past a pod's policy. */
		if (sign != (CB_DECIDED | CB_COVERS_BOTH))
			skb->mark &= ~(__u32)c->mark_mask;
		return pass(WEIR_STEER_DECIDED);
	}
	skb->mark &= ~(__u32)c->mark_mask;
	/* Decided for a receiver, which must be this one: whoever made the link
	 * believe that it has another's address does not get its packets. */
	parse(skb, c, &p);
	if (p.kind != KIND_IP || !(is_own(skb, &p.dst) || is_group(&p.dst)))
		return drop(WEIR_STEER_DROP_RECEIVER);
	return pass(WEIR_STEER_DECIDED);
}

/* ---- the fast path ---------------------------------------------------- */

enum answer {
	ANSWER_NONE,  /* no flow of this packet: it may begin one */
	ANSWER_HIT,   /* pass */
	ANSWER_CUT,   /* drop */
	ANSWER_STALE, /* a flow that has to be judged again */
	ANSWER_HELD,  /* a flow some of whose packets are out in user space */
	ANSWER_FOREIGN, /* a flow that is not this hook's: a worker sorts it out */
	ANSWER_UNNOTED, /* pass, but the entry changed and has not noted the packet */
};

/* A SYN (SCTP: an INIT) asks for a connection. It is a repetition only on a flow that its sender opened
 * and that nobody has ended; else port reuse would skip the policy. */
static __always_inline int asks_anew(const struct flow *f, const struct tuple *t)
{
	__u8 ended = seen_from(f->aux, 0) | seen_from(f->aux, 1);

	if ((t->tcp_flags & (TCP_SYN | TCP_ACK)) != TCP_SYN)
		return 0;
	return !(f->ctl & WEIR_FLOW_FLAG_HI) != !t->from_hi ||
	       (ended & (WEIR_SEEN_FIN | WEIR_SEEN_RST));
}

/* What the flow that was found says about a packet at this hook. */
static __always_inline enum answer follow(struct __sk_buff *skb, const struct weir_config *c,
					  struct finding *found, __u8 direction)
{
	struct tuple *t = &found->tuple;
	struct flow *f = &found->flow;
	__u32 tick;

	if (!f->rest)
		return ANSWER_NONE;
	tick = c->tick;
	/* The end that is at this hook is at the device for which the verdict was
	 * given: who forges another's 5-tuple does not meet its flow. */
	if (device_of(f, direction == WEIR_FROM_POD ? t->from_hi : !t->from_hi) != skb->ifindex)
		return ANSWER_FOREIGN;
	if ((tick != (__u32)f->aux && is_over(f, t->protocol, tick)) || asks_anew(f, t))
		return ANSWER_NONE;
	if (!stamps_hold(f))
		return ANSWER_STALE;
	if (flow_state(f->ctl) == WEIR_FLOW_DENIED) {
		touch(f, t, tick);
		return ANSWER_CUT;
	}
	if (is_held(f, t->from_hi))
		return ANSWER_HELD;
	return touch(f, t, tick) ? ANSWER_HIT : ANSWER_UNNOTED;
}

/* What was said of other connections like the one that this packet would begin. New ones
 * are begun only while a worker serves, whoever decides: what it said may be out of date
 * without anybody there to say so. `found` has no flow, or at `place` one that is over. */
static __always_inline int open_by_verdict(struct __sk_buff *skb, struct weir_config *c,
					   struct packet *p, struct finding *found,
					   int place, __u8 direction)
{
	struct tuple *t = &found->tuple;
	__u64 ctl = found->flow.rest ? found->flow.ctl : t->s.free_ctl;
	__u32 has_room = found->flow.rest || t->s.has_free;
	struct flow verdict;

	if (!found->flow.rest)
		place = t->s.free_place;
	search_verdict(c, t);
	read_place(&t->s, find_place(&t->s), &verdict);
	/* Side lo is the source, side hi the destination. */
	if (!verdict.rest || device_of(&verdict, direction == WEIR_TO_POD) != skb->ifindex ||
	    !stamps_hold(&verdict))
		return PUNT;
	if (flow_state(verdict.ctl) == WEIR_FLOW_DENIED) {
		/* It may be the late packet of a flow in the other direction. */
		if (found->flow.rest)
			return PUNT;
		return drop(verdict.ctl & WEIR_FLOW_FLAG_HI ? WEIR_STEER_DROP_INGRESS :
							      WEIR_STEER_DROP_EGRESS);
	}
	if ((t->protocol == IPPROTO_TCP || t->protocol == IPPROTO_SCTP) &&
	    (t->tcp_flags & (TCP_SYN | TCP_ACK)) != TCP_SYN)
		return PUNT;
	note_use(&verdict, c->tick);
	p->vouched = 1;
	if (!has_room || !serving(c, worker_of(c, p), bpf_ktime_get_ns()))
		return PUNT;
	/* The search for the verdict has taken the place of the flow's key. */
	if (read_tuple(skb, c, t) == FAMILY_NONE || !enter_flow(t, place, ctl, &verdict, c->tick))
		return PUNT;
	return pass(WEIR_STEER_OPENED);
}

/*
 * Everything but a hit. A global function, so that the verifier looks at it once and by
 * itself; it begins anew, since most of what comes here has no flow.
 */
__noinline int steer_undecided(struct __sk_buff *skb, __u32 direction)
{
	struct weir_config *c = config();
	struct packet p = {};
	struct finding found = {};
	int verdict, place;

	if (!c)
		return drop(WEIR_STEER_DROP_NO_CONFIG);
	parse(skb, c, &p);
	switch (p.kind) {
	case KIND_L2:
		return drop(WEIR_STEER_DROP_L2);
	case KIND_TRUNCATED:
		return drop(WEIR_STEER_DROP_TRUNCATED);
	case KIND_NEIGHBOUR:
		if (direction == WEIR_TO_POD)
			return pass(WEIR_STEER_NEIGHBOUR);
		if (!may_claim(skb, &p.src) || (p.is_advert && !may_advertise(skb)))
			return drop(WEIR_STEER_DROP_ND);
		if (stays_on_link(&p.dst))
			return pass(WEIR_STEER_NEIGHBOUR);
		break;
	case KIND_ROUTER:
		if (direction == WEIR_TO_POD && !skb->ingress_ifindex)
			return pass(WEIR_STEER_NEIGHBOUR);
		return drop(WEIR_STEER_DROP_ND);
	case KIND_IP:
		break;
	}
	if (is_node_traffic(skb, &p, direction))
		return pass(WEIR_STEER_NODE);
	if (!c->offload)
		return punt(skb, c, &p, 0, 0, direction);

	pull_headers(skb);
	if (read_tuple(skb, c, &found.tuple) == FAMILY_NONE)
		return punt(skb, c, &p, 0, 0, direction);
	place = find_place(&found.tuple.s);
	read_place(&found.tuple.s, place, &found.flow);
	/* Somebody is at the flow's entry: whether there is one is not known, and to take it
	 * for absent could turn it round. */
	if (place == PLACE_IN_CHANGE || (place >= 0 && !found.flow.rest))
		return punt(skb, c, &p, 0, 0, direction);
	switch (follow(skb, c, &found, direction)) {
	case ANSWER_HIT:
	case ANSWER_UNNOTED: /* for the second time: a flag is worth less than the packet */
		return pass(WEIR_STEER_HIT);
	case ANSWER_CUT:
		return drop(direction == WEIR_FROM_POD ? WEIR_STEER_DROP_CUT_EGRESS :
							 WEIR_STEER_DROP_CUT_INGRESS);
	case ANSWER_STALE:
		count(WEIR_STEER_STALE);
		return punt(skb, c, &p, &found, 0, direction);
	case ANSWER_HELD:
		count(WEIR_STEER_HELD);
		touch(&found.flow, &found.tuple, c->tick);
		return punt(skb, c, &p, &found, 1, direction);
	case ANSWER_FOREIGN:
		return punt(skb, c, &p, 0, 0, direction);
	case ANSWER_NONE:
		break;
	}
	verdict = open_by_verdict(skb, c, &p, &found, place, direction);
	return verdict == PUNT ? punt(skb, c, &p, 0, 0, direction) : verdict;
}

/*
 * The fast path: whether the flow table says that the packet may pass. For IPv4 it is
 * inlined: with today's mitigations a return costs as much as all of its arithmetic. IPv6
 * needs more stack than would be left for what comes after a miss.
 */
static __always_inline int is_hit4(struct __sk_buff *skb, __u32 direction)
{
	struct weir_config *c = config();
	struct finding found;

	if (!c || !c->offload || !read_tuple4(skb, c, &found.tuple))
		return 0;
	find_flow(c, &found.tuple, 0, &found.flow);
	return follow(skb, c, &found, direction) == ANSWER_HIT;
}

__noinline int is_hit6(struct __sk_buff *skb, __u32 direction)
{
	struct weir_config *c = config();
	struct finding found;

	if (!c || !c->offload || !read_tuple6(skb, c, &found.tuple))
		return 0;
	find_flow(c, &found.tuple, 1, &found.flow);
	return follow(skb, c, &found, direction) == ANSWER_HIT;
}

static __always_inline int steer(struct __sk_buff *skb, __u8 direction)
{
	/* Hardly any packet is marked, so the fast path does not even look whose
	 * mark it would be. */
	if (skb->mark) {
		struct weir_config *c = config();

		if (!c)
			return settle(skb, drop(WEIR_STEER_DROP_NO_CONFIG), direction);
		if ((skb->mark & (__u32)c->mark_mask) == (__u32)c->mark_value)
			return settle(skb, steer_decided(skb, direction), direction);
	}
	if (direction == WEIR_TO_POD || (has_own_mac(skb) && is_plainly_finished(skb))) {
		if (skb->protocol == bpf_htons(ETH_P_IPV6) ? is_hit6(skb, direction) :
							     is_hit4(skb, direction))
			return pass(WEIR_STEER_HIT);
	}
	if (direction == WEIR_FROM_POD && !link_is_honest(skb))
		return settle(skb, drop(WEIR_STEER_DROP_MAC), direction);
	if (direction == WEIR_FROM_POD && hides_discovery(skb))
		return settle(skb, drop(WEIR_STEER_DROP_ND), direction);
	if (direction == WEIR_FROM_POD && !is_finished(skb))
		return settle(skb, drop(WEIR_STEER_DROP_UNFINISHED), direction);
	return settle(skb, steer_undecided(skb, direction), direction);
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
		return settle(skb, drop(WEIR_STEER_DROP_NO_CONFIG), WEIR_FROM_POD);
	if (bpf_skb_load_bytes(skb, ETH_HLEN, &shim, sizeof(shim)) ||
	    shim.tag != bpf_htons(WEIR_SHIM_TAG))
		return settle(skb, drop(WEIR_STEER_DROP_SHIM), WEIR_FROM_POD);
	if (bpf_skb_adjust_room(skb, -(__s32)sizeof(shim), BPF_ADJ_ROOM_MAC,
				BPF_F_ADJ_ROOM_FIXED_GSO))
		return settle(skb, drop(WEIR_STEER_DROP_SHIM), WEIR_FROM_POD);
	count(WEIR_STEER_RETURNED);
	skb->mark = (skb->mark & ~(__u32)c->mark_mask) | (__u32)c->mark_value;
	skb->cb[0] = CB_DECIDED | (shim.flags & WEIR_SHIM_COVERS_BOTH ? CB_COVERS_BOTH : 0);
	skb->cb[1] = shim.flags & WEIR_SHIM_COUNTED ? CB_COUNTED | shim.sequence : 0;
	return bpf_redirect(shim.ifindex, shim.direction == WEIR_TO_POD ? 0 : BPF_F_INGRESS);
}

#ifndef WEIR_WITHOUT_AF_XDP
SEC("xdp")
int weir_deliver(struct xdp_md *ctx)
{
	return bpf_redirect_map(&weir_xsks, ctx->rx_queue_index, XDP_DROP);
}
#endif

/* Steering of a TAP device (TUNSETSTEERINGEBPF): it does not heed skb->queue_mapping. */
SEC("socket")
int weir_queue(struct __sk_buff *skb)
{
	struct weir_shim shim;

	return bpf_skb_load_bytes(skb, 0, &shim, sizeof(shim)) ? 0 : shim.worker;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";

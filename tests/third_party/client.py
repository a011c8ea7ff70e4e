"""A client in another language: stubs generated from proto/, nothing of ours but the .proto files.

Pushes over a stream and by a call, subscribes, settles (with an emit), looks at typed errors, and
receives without a stream. Usage: client.py STUBS HOST:PORT
"""

import queue
import sys
import uuid

sys.path.insert(0, sys.argv[1])

import grpc
from dpc.v1 import cloud_service_pb2, object_pb2, operator_service_pb2
from dpc.v1 import push_pb2, session_pb2, settle_pb2
from dpc.v1 import cloud_service_pb2_grpc, operator_service_pb2_grpc
from google.protobuf import any_pb2

SECONDS = 20


def entity(name: str, text: str) -> any_pb2.Any:
    return any_pb2.Any(type_url=f"type.googleapis.com/{name}", value=text.encode())


class Session:
    """One stream: requests from a queue, responses as they come."""

    def __init__(self, cloud):
        self.requests = queue.Queue()
        self.seq = 0
        self.responses = cloud.Session(iter(self.requests.get, None), timeout=SECONDS)

    def send(self, **item) -> int:
        self.seq += 1
        self.requests.put(
            session_pb2.SessionRequest(items=[session_pb2.SessionItem(seq=self.seq, **item)])
        )
        return self.seq

    def next(self, kind: str):
        for response in self.responses:
            if response.WhichOneof("response") == kind:
                return getattr(response, kind)
        raise SystemExit(f"the stream ended before {kind} came")

    def close(self):
        self.requests.put(None)
        for _ in self.responses:
            pass


def push(cloud) -> list[str]:
    ids = [str(uuid.uuid4()) for _ in range(3)]
    items = [
        push_pb2.PushItem(seq=n + 1, object=object_pb2.Object(id=id, entity=entity("py.Order", f"order {n}")))
        for n, id in enumerate(ids)
    ]
    bad = push_pb2.PushItem(seq=4, object=object_pb2.Object(entity=any_pb2.Any(value=b"no type")))
    stored, refused = set(), {}
    requests = queue.Queue()
    requests.put(push_pb2.PushStreamRequest(items=[*items, bad]))
    for response in cloud.PushStream(iter(requests.get, None), timeout=SECONDS):
        for ok in response.answers.ok:
            assert ok.durability == object_pb2.DURABILITY_SYNCED, ok
            stored.update(range(ok.first_seq, ok.last_seq + 1))
        for item in response.answers.refused:
            refused[item.seq] = item.error
        if len(stored) + len(refused) == 4:
            requests.put(None)
    assert stored == {1, 2, 3}, stored
    assert refused[4].reason == "TYPE_MISSING" and refused[4].field, refused
    again = cloud.Push(first_again(ids[0]), timeout=SECONDS)
    assert again.ok[0].status == push_pb2.PUSH_STATUS_ALREADY_EXISTS, again
    return ids


def first_again(id: str) -> push_pb2.PushRequest:
    return push_pb2.PushRequest(
        objects=[object_pb2.Object(id=id, entity=entity("py.Order", "order 0"))]
    )


def work(cloud, ids: list[str]):
    session = Session(cloud)
    session.next("opened")
    session.send(subscribe=session_pb2.Subscribe(subscription=1, pattern="py.Order", credit=2))
    seen = []
    while len(seen) < 3:
        for delivery in session.next("deliveries").deliveries:
            seen.append(delivery.id)
            emits = []
            if delivery.id == ids[0]:
                emits.append(object_pb2.Object(entity=entity("py.Invoice", "for " + delivery.id)))
            seq = session.send(
                settle=settle_pb2.Settlement(
                    leases=[delivery.lease], finalise=settle_pb2.Finalise(), emits=emits
                )
            )
            assert seq > 0
    assert sorted(seen) == sorted(ids), (seen, ids)
    done = 0
    while done < 3:
        answers = session.next("answers")
        assert not answers.refused, answers
        for span in answers.done:
            done += sum(1 for seq in range(span.first_seq, span.last_seq + 1) if seq > 1)
    session.close()


def receive_without_a_stream(cloud):
    taken = cloud.Take(
        cloud_service_pb2.TakeRequest(pattern="py.*", processor="unary", max=5, wait={"seconds": 5}),
        timeout=SECONDS,
    )
    (invoice,) = taken.deliveries
    assert invoice.entity.type_url.endswith("/py.Invoice"), invoice
    settlement = settle_pb2.Settlement(tokens=[invoice.token], finalise=settle_pb2.Finalise())
    cloud.Settle(cloud_service_pb2.SettleRequest(settlement=settlement), timeout=SECONDS)
    repeated = cloud.Settle(cloud_service_pb2.SettleRequest(settlement=settlement), timeout=SECONDS)
    assert not repeated.refused, repeated
    other = settle_pb2.Settlement(tokens=[invoice.token], reject=settle_pb2.Reject(reason="late"))
    try:
        cloud.Settle(cloud_service_pb2.SettleRequest(settlement=other), timeout=SECONDS)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
    else:
        raise SystemExit("a second settle of another content was accepted")


def main():
    with grpc.insecure_channel(sys.argv[2]) as channel:
        cloud = cloud_service_pb2_grpc.CloudServiceStub(channel)
        operator = operator_service_pb2_grpc.OperatorServiceStub(channel)
        ids = push(cloud)
        work(cloud, ids)
        receive_without_a_stream(cloud)
        for id in ids:
            answer = operator.GetObject(operator_service_pb2.GetObjectRequest(id=id), timeout=SECONDS)
            assert object_pb2.ObjectState.Name(answer.object.state).endswith("_FINAL"), answer
    print("python: pushed, subscribed, settled, emitted, received by a call; errors were typed")


main()

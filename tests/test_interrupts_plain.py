"""What an interrupt left behind is dropped, whatever the client."""

from typing import Any

import pytest
import redis
from redis.cluster import RedisCluster

from memorystore_chat.interrupts import drop_idle_connections, dropping_interrupted
from servers import Cluster, Server


@pytest.mark.parametrize("single", [False, True])
def test_a_servers_client_connects_anew(valkey_server: Server, single: bool) -> None:
    with redis.Redis(port=valkey_server.port, single_connection_client=single) as client:
        before = client.client_id()
        drop_idle_connections(client)
        assert client.client_id() != before


def test_a_clusters_client_connects_anew_to_each_node(valkey_cluster: Cluster) -> None:
    node = valkey_cluster.nodes[0]
    with RedisCluster(host=node.host, port=node.port) as client:
        used: Any = client.client_id(target_nodes=RedisCluster.PRIMARIES)
        with pytest.raises(KeyboardInterrupt), dropping_interrupted(client):
            raise KeyboardInterrupt
        now: Any = client.client_id(target_nodes=RedisCluster.PRIMARIES)
        assert used.keys() == now.keys()
        assert not used.items() & now.items()

"""Messages to bytes and back, and the Lua scripts that write them.

Imports no other room of the package: who calls it words the errors.
"""

from typing import TypeAlias

import redis
import redis.asyncio
from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster
from redis.cluster import RedisCluster

Client: TypeAlias = redis.Redis | RedisCluster
AsyncClient: TypeAlias = redis.asyncio.Redis | AsyncRedisCluster

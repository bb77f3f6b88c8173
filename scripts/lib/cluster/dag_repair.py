"""A repair of Snakemake's graph, version 9.27.1: without it a run leaves jobs undone that the next one does.

Jobs behind one that is to run are left out when it is asked which others are, for they are believed to follow from it.
Behind an `ancient` input nothing follows, and what is to run there for reasons of its own does not run: under
`fetch.disk_budget`, after a change of what waits for what, a first run only made room, and ended. Known to Snakemake as
its issue 4166.
"""

from collections import deque

from snakemake.dag import DAG


def mend() -> None:
    """Repair the graph in this process."""
    DAG.update_needrun = _by_followers


ORIGINAL = DAG.update_needrun


async def _by_followers(self, *arguments, **options):
    self.bfs = _followers  # in place of the method, which it calls for nothing else
    try:
        await ORIGINAL(self, *arguments, **options)
    finally:
        del self.bfs


def _followers(direction: dict, *jobs):
    """Some jobs and those that follow from them, breadth first, but not by ancient files alone."""
    queue, seen = deque(jobs), set(jobs)
    while queue:
        job = queue.popleft()
        yield job
        for follower, files in direction[job].items():
            if follower not in seen and not all(file.is_ancient for file in files):
                seen.add(follower)
                queue.append(follower)

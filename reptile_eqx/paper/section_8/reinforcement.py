"""Reinforcement learning, which Section 8 leaves open: is there a policy from which few policy gradients solve a task?

A task is an environment with something hidden in it, such as a goal. Its *examples* are episodes yet to be played: what
is hidden, and a random key for each. The loss plays them with the policy it is given, so that every gradient is
on-policy and the algorithms of `meta` work as they are.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, UInt32

from ...checks import MOST_ITERATIONS, MOST_SEED, number, whole
from ...evaluation import mean_and_interval
from ...inner import Loss, adapt, start_optimiser, trainable
from ...meta import MetaGradient, fomaml, joint_training, maml, reptile
from ...runs.configuration import Measurement, Numbers
from ...tasks import Task
from ...training import Learner, State

ALGORITHMS = ("random", "joint", "fomaml", "maml", "reptile")
JUDGED = 5
"""After how many gradient steps on an unseen task initialisations are compared: as many as Reptile trains with."""
SHOWN_GOALS = ((0.4, 0.3), (-0.4, 0.35), (0.05, -0.45))
SHOWN_EPISODES = 2
"""For which goals, and of how many episodes, a record of navigation keeps the paths, before adaptation and after."""

Hidden = Float[Array, " hidden"]
Observation = Float[Array, " feature"]
Episodes = tuple[Float[Array, "episode hidden"], UInt32[Array, "episode key"]]
"""Episodes yet to be played: what is hidden in each one's task, and its random key."""


class Played(NamedTuple):
    """An episode, step by step: what the policy saw, what it did, and the reward of that."""

    observations: Float[Array, "*episode step feature"]
    actions: Int[Array, "*episode step"] | Float[Array, "*episode step coordinate"]
    rewards: Float[Array, "*episode step"]


class Chooser(eqx.Module):
    """A policy that chooses one of several arms, whose logits its network gives."""

    network: eqx.nn.MLP

    def act(self, observation: Observation, key: PRNGKeyArray) -> Int[Array, ""]:
        """An arm."""
        return jax.random.categorical(key, self.network(observation))

    def log_probability(self, observation: Observation, action: Int[Array, ""]) -> Float[Array, ""]:
        """Of an arm."""
        return jax.nn.log_softmax(self.network(observation))[action]


class Mover(eqx.Module):
    """A policy that moves: its network gives the mean of an action, and normal noise of a fixed size is added."""

    network: eqx.nn.MLP
    noise: float = eqx.field(static=True)

    def act(self, observation: Observation, key: PRNGKeyArray) -> Float[Array, " coordinate"]:
        """An action."""
        mean = self.network(observation)
        return mean + self.noise * jax.random.normal(key, mean.shape)

    def log_probability(self, observation: Observation, action: Float[Array, " coordinate"]) -> Float[Array, ""]:
        """Of an action, as a density and but for a constant."""
        return -jnp.square((action - self.network(observation)) / self.noise).sum() / 2


@dataclass(frozen=True)
class Bandit:
    """Arms on a circle. An arm's reward is normal; its mean falls off, as a cosine, from the direction that is best.

    An episode is one choice. The best direction is hidden, and any is as likely, so that no policy that does not adapt
    has another expected return than 0. The best arm's is between 0.95 and 1.
    """

    arms: int = 10
    noise: float = 1.0
    horizon: ClassVar[int] = 1

    def hide(self, key: PRNGKeyArray) -> Hidden:
        """A task's best direction, an angle."""
        return jax.random.uniform(key, (1,), maxval=2 * jnp.pi)

    def policy(self, key: PRNGKeyArray) -> Chooser:
        """A fresh policy."""
        return Chooser(eqx.nn.MLP(1, self.arms, width_size=32, depth=2, activation=jnp.tanh, key=key))

    def start(self) -> Observation:
        """There is nothing to see: always 1."""
        return jnp.ones(1)

    def step(
        self, hidden: Hidden, observation: Observation, action: Array, key: PRNGKeyArray
    ) -> tuple[Observation, Float[Array, ""]]:
        """The next observation, and the reward of pulling an arm."""
        mean = jnp.cos(2 * jnp.pi * action / self.arms - hidden[0])
        return observation, mean + self.noise * jax.random.normal(key)


@dataclass(frozen=True)
class Navigation:
    """A point in the plane that seeks a goal, as Finn et al.'s, with 20 steps an episode in the place of 100.

    It starts from the origin and sees where it is. A step is at most 0.1 along each axis. Its reward is the negative
    squared distance from the goal, which is hidden, and anywhere in a square of side 1 around the origin.
    """

    horizon: ClassVar[int] = 20

    def hide(self, key: PRNGKeyArray) -> Hidden:
        """A task's goal."""
        return jax.random.uniform(key, (2,), minval=-0.5, maxval=0.5)

    def policy(self, key: PRNGKeyArray) -> Mover:
        """A fresh policy; 1 is the largest step."""
        return Mover(eqx.nn.MLP(2, 2, width_size=32, depth=2, activation=jnp.tanh, key=key), noise=0.5)

    def start(self) -> Observation:
        """The origin."""
        return jnp.zeros(2)

    def step(
        self, hidden: Hidden, observation: Observation, action: Array, key: PRNGKeyArray
    ) -> tuple[Observation, Float[Array, ""]]:
        """Where the point is next, and the reward of being there."""
        after = observation + 0.1 * jnp.clip(action, -1, 1)
        return after, -jnp.square(after - hidden).sum()


Environment = Bandit | Navigation
ENVIRONMENTS: dict[str, Environment] = {"bandit": Bandit(), "navigation": Navigation()}
"""What `environment` names."""


def play(environment: Environment, policy: PyTree, episodes: Episodes) -> Played:
    """Play episodes with a policy; `Played` has a leading axis of them. A pure function of their keys."""

    def one(hidden, key):
        def step(observation, keys):
            action = policy.act(observation, keys[0])
            after, reward = environment.step(hidden, observation, action, keys[1])
            return after, Played(observation, action, reward)

        # Keys are split before the loop, where it takes half the time.
        keys = jax.random.split(key, (environment.horizon, 2))
        return jax.lax.scan(step, environment.start(), keys)[1]

    return jax.vmap(one)(*episodes)


def surrogate(environment: Environment) -> Loss:
    """A loss of a policy and two or more `Episodes`, whose gradient is REINFORCE's; its value says nothing.

    The episodes are played with that policy, and what came of it is held constant. The advantage of an action is the
    return from its step on, less a baseline: the mean of the batch's other episodes at that step. So the gradient is an
    unbiased estimate of that of -E[return].

    MAML alone takes second derivatives, through the steps before the last. As in Finn et al., what they miss is that
    the episodes of those steps were drawn from a policy that depends on φ. Here each action is weighted by its
    probability over itself held constant (Rothfuss et al. 2019), which leaves values and first derivatives as they are
    and makes the expected second derivative exact in the bandit. In longer episodes it leaves out how an action
    depends on those before it.
    """

    def loss(policy, episodes):
        parameters, rest = trainable(policy)
        still = eqx.combine(jax.lax.stop_gradient(parameters), rest)
        played = play(environment, still, episodes)
        to_go = jnp.cumsum(played.rewards[:, ::-1], axis=1)[:, ::-1]
        advantage = to_go - (to_go.sum(0) - to_go) / (to_go.shape[0] - 1)
        logs = jax.vmap(jax.vmap(policy.log_probability))(played.observations, played.actions)
        ratio = jnp.exp(logs - jax.lax.stop_gradient(logs))
        return -(ratio * advantage).sum(1).mean()

    return loss


@dataclass(frozen=True)
class Tasks:
    """A distribution of tasks: `support` and `query` are how many episodes each may play to learn and to be judged."""

    environment: Environment
    support: int
    query: int

    def __call__(self, key: PRNGKeyArray) -> Task:
        """One task, a pure function of `key`; both parts are `Episodes`."""
        hidden_key, episodes_key = jax.random.split(key)
        return self.hiding(self.environment.hide(hidden_key), episodes_key)

    def hiding(self, hidden: Hidden, key: PRNGKeyArray) -> Task:
        """The task in which that is hidden."""
        count = self.support + self.query
        keys = jax.random.key_data(jax.random.split(key, count))
        episodes = jnp.broadcast_to(hidden, (count, *hidden.shape)), keys
        support, query = (
            jax.tree.map(lambda leaf: leaf[part], episodes) for part in (slice(self.support), slice(self.support, None))
        )
        return Task(support, query)


def along(
    loss: Loss, optimiser: optax.GradientTransformation, policy: PyTree, batches: PyTree, watch: Callable
) -> PyTree[Array]:
    """What `watch(policy)` gives before and after a step on each of `batches`, with a leading axis of steps."""

    def step(carry, batch):
        policy, state = eqx.combine(carry, still)
        one = jax.tree.map(lambda leaf: leaf[None], batch)
        policy, state, *_ = adapt(loss, optimiser, policy, state, one)
        return eqx.filter((policy, state), eqx.is_array), watch(policy)

    moving, still = eqx.partition((policy, start_optimiser(optimiser, policy)), eqx.is_array)
    seen = jax.lax.scan(step, moving, batches)[1]
    return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), watch(policy), seen)


@dataclass(frozen=True)
class ReinforcementLearning:
    """Meta-training on bandits or on navigation, with policy gradients and plain SGD inside, and Adam outside.

    `environment` names one of `ENVIRONMENTS`. `algorithm` is "reptile", "joint" (training on the expected return),
    "fomaml", "maml" or "random" (no training, and `outer_iterations` = 0). An outer iteration plays
    `inner_iterations` batches of `inner_batch_size` new episodes on each of its tasks; the last of them is FOMAML's and
    MAML's tail. `outer_step_size` is Adam's first step size, annealed linearly to 0. Unseen tasks are adapted to with
    `inner_step_size` as well, on `eval_batch_size` new episodes a step; a return is the mean of `eval_episodes` others.
    """

    numbers: ClassVar[tuple[str, ...]] = ("seed", "inner_step_size", "outer_step_size")
    measured: ClassVar[tuple[str, ...]] = ("eval_tasks", "eval_inner_iterations", "eval_batch_size", "eval_episodes")
    counts: ClassVar[tuple[str, ...]] = ("eval_tasks",)
    precision: ClassVar[str] = "float32"

    environment: str = "navigation"
    algorithm: str = "reptile"
    inner_step_size: float | int = 0.03
    inner_batch_size: int = 20
    inner_iterations: int = 5
    outer_step_size: float | int = 1e-3
    outer_iterations: int = 1000
    meta_batch_size: int = 5
    seed: int = 0
    curve_points: int = 10
    curve_tasks: int = 40
    eval_tasks: int = 500
    eval_inner_iterations: int = 10
    eval_batch_size: int = 20
    eval_episodes: int = 20

    def __post_init__(self):
        for field in fields(self):
            given = getattr(self, field.name)
            if field.type is int:
                most = MOST_SEED if field.name == "seed" else MOST_ITERATIONS
                object.__setattr__(self, field.name, whole(field.name, given, _LEAST.get(field.name, 0), most))
            elif field.type == float | int:
                object.__setattr__(self, field.name, number(field.name, given))
        for name, known in (("environment", tuple(ENVIRONMENTS)), ("algorithm", ALGORITHMS)):
            if getattr(self, name) not in known:
                raise ValueError(f"`{name}` is {getattr(self, name)!r}; expected {' or '.join(known)}")
        for algorithm, name, only in (("random", "outer_iterations", 0), ("joint", "inner_iterations", 1)):
            if self.algorithm == algorithm and getattr(self, name) != only:
                raise ValueError(f"`{name}` is {getattr(self, name)}; expected {only} for {algorithm!r}")

    @property
    def name(self) -> str:
        """What the run is called."""
        return f"{self.environment}-{self.algorithm}-{self.outer_iterations}-seed{self.seed}"

    def learner(self, data: None, numbers: Numbers) -> Learner:
        """The training that this configuration describes."""
        environment = ENVIRONMENTS[self.environment]
        tail = self.inner_batch_size if self.algorithm in ("fomaml", "maml") else 0
        tasks = Tasks(environment, self.inner_iterations * self.inner_batch_size - tail, tail)
        annealed = optax.polynomial_schedule(numbers["outer_step_size"], 0.0, 1, max(1, self.outer_iterations))
        gradient = self._gradient(surrogate(environment), optax.sgd(numbers["inner_step_size"]))
        return Learner(environment.policy, tasks, gradient, optax.adam(annealed), self.meta_batch_size)

    def _gradient(self, loss: Loss, optimiser: optax.GradientTransformation) -> MetaGradient:
        if self.algorithm == "joint":
            return joint_training(loss, optimiser, batch_size=self.inner_batch_size)
        of = {"maml": maml, "fomaml": fomaml}.get(self.algorithm, reptile)
        return of(loss, optimiser, steps=self.inner_iterations, batch_size=self.inner_batch_size)

    def measurements(self, data: None, numbers: Numbers, *, final: bool) -> tuple[Measurement, ...]:
        """The return on unseen tasks before and after each gradient step; at the end of navigation also some paths."""
        environment, batch_size = ENVIRONMENTS[self.environment], self.eval_batch_size
        tasks = Tasks(environment, self.eval_inner_iterations * batch_size, self.eval_episodes)
        loss, optimiser = surrogate(environment), optax.sgd(numbers["inner_step_size"])

        def playing(policy, task):
            """The query's episodes, played before and after each step."""
            batches = jax.tree.map(lambda leaf: leaf.reshape(-1, batch_size, *leaf.shape[1:]), task.support)
            return along(loss, optimiser, policy, batches, lambda adapted: play(environment, adapted, task.query))

        def returns(state: State, key: PRNGKeyArray):
            return playing(state.model, tasks(key)).rewards.sum(-1).mean(-1)

        def paths(state: State, key: PRNGKeyArray):
            def of_goal(goal):
                seen = playing(state.model, tasks.hiding(goal, key)).observations
                return seen[jnp.array((0, JUDGED)), :SHOWN_EPISODES]

            return jax.lax.map(of_goal, jnp.array(SHOWN_GOALS))

        def rounded(values: np.ndarray):
            return np.round(values[0].astype(float), 4).tolist()

        count = self.eval_tasks if final else self.curve_tasks
        measured = [Measurement("return", count, returns, mean_and_interval)]
        if final and self.environment == "navigation":
            measured.append(Measurement("paths", 1, paths, rounded))
        return tuple(measured)


_LEAST = dict(
    inner_batch_size=2,
    inner_iterations=1,
    meta_batch_size=1,
    curve_tasks=2,
    eval_tasks=2,
    eval_inner_iterations=JUDGED,
    eval_batch_size=2,
    eval_episodes=SHOWN_EPISODES,
)

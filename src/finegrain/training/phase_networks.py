"""The network of each phase: the run's own, or one with a head that is thrown away after the phase."""

from dataclasses import replace

from torch import nn

from finegrain.config.phases import AnyPhase, SolvedPhase
from finegrain.config.training import HeadParams
from finegrain.models import build
from finegrain.runtime import devices
from finegrain.training.optim import MovingAverage
from finegrain.training.train_step import TrainingSetup


class PhaseNetworks:
    """Hands the trained part of the network from phase to phase."""

    def __init__(self, setup: TrainingSetup) -> None:
        """Start with the run's own network, before any phase."""
        self._own = self.setup = setup
        self._head: HeadParams | None = None
        self._begun = False
        self.average = self._new_average()

    @property
    def evaluated(self) -> nn.Module:
        """What is validated and saved: the moving average if the recipe wants one."""
        return self.average.module if self.average else self.setup.net

    @property
    def waiting(self) -> nn.Module | None:
        """The run's own network while a phase trains another head: its own head is kept for later phases."""
        return None if self.setup is self._own else self._own.net

    def enter(self, phase: AnyPhase) -> TrainingSetup:
        """The network to train in this phase, with all that earlier phases have trained."""
        trained = self.evaluated
        if phase.head != self._head:
            self._head = phase.head
            self.setup = replace(self._own, net=self._build()) if phase.head else self._own
            if self._begun:
                self.setup.net.load_state_dict(build.get_body_state(trained), strict=False)
            self.average = self._new_average()
        elif isinstance(phase, SolvedPhase):
            self.setup.net.load_state_dict(trained.state_dict())
        self._begun = True
        return self.setup

    def restart_average(self) -> None:
        """Average from the present weights on, after they were replaced and not trained."""
        self.average = self._new_average()

    def _new_average(self) -> MovingAverage | None:
        decay = self.setup.config.ema_decay
        return MovingAverage(self.setup.net, decay) if decay else None

    def _build(self) -> nn.Module:
        """A network with the head of the phase, from the weights that the recipe starts from."""
        own = self._own
        assert self._head
        net = build.build_model(own.model, own.train.class_names, own.weights, self._head, own.seed)
        return devices.place(net, own.train.device)

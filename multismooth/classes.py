"""The class axis, as a plan sees it."""

from multismooth import spec


class Classes:
    """The class axis of a call: how many classes there are, rows of a number for each, and what is taken over all.

    `plan_of` and what it calls look across classes through this class alone. Where a process has a part of the classes,
    another one takes its place, which has rows of that part, and takes over all processes. There, what is taken must
    pass through `together` before it is used. So processes meet once, whatever a call needs.
    """

    def __init__(self, z, axis, xp):
        self.z, self.axis, self.xp = z, axis, xp
        self.count = z.shape[axis]

    def together(self, taken):
        """The dictionary of what was taken over these classes, now over all."""
        return taken

    @property
    def part(self):
        """The classes whose part of the loss a plan has. They need no `together`."""
        return self

    @property
    def whole(self):
        """The class axis of rows that have all classes, because they come from (K,) vectors."""
        return self

    def holds(self, labels):
        """1 where the label is one of these classes, 0 elsewhere."""
        return 1.0

    def row(self, vector):
        """A (K,) vector as a row that broadcasts to the logits."""
        return spec.along(vector, self.z, self.axis, self.xp)

    def indices(self):
        """The classes as a (K,) vector. It is made on z's device, which a list of K numbers would have to wait for."""
        return self.xp.arange(0, self.count, device=getattr(self.z, "device", None))

    def pick(self, rows, labels):
        return self.xp.pick(self.xp.broadcast_to(rows, self.z.shape), labels, self.axis)

    def rows_at(self, table, labels):
        """The row (or entry) of a table of all classes for each label."""
        return spec.rows_at(table, labels, self.xp)

    def sum(self, rows, keepdims=False):
        return self.xp.sum(rows, axis=self.axis, keepdims=keepdims)

    def min(self, rows):
        return self.xp.min(rows, axis=self.axis)

    def max(self, rows):
        return self.xp.max(rows, axis=self.axis)

    def argmax(self, rows):
        return self.xp.argmax(rows, axis=self.axis)

    def mass(self, rows):
        """Σ u or Σ v, which the gradient needs."""
        return self.sum(rows)

    def valid_rows(self, t, mask, tolerance):
        """Whether each row of t is ≥ 0, sums to 1 within the tolerance, and has no mass on an absent class."""
        lowest, total = self.min(t), self.sum(t)
        valid = (lowest >= -tolerance) & (self.xp.abs(total - 1) <= tolerance)
        if mask is None:
            return valid
        absent = self.xp.where(mask, self.xp.zeros_like(t), t)
        return valid & (self.max(absent) <= tolerance)

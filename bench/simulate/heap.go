package main

// heap holds the item that comes before all others at its top.
type heap[T interface{ Before(T) bool }] []T

func (h *heap[T]) push(x T) {
	items := append(*h, x)
	at := len(items) - 1
	for at > 0 && x.Before(items[(at-1)/2]) {
		items[at] = items[(at-1)/2]
		at = (at - 1) / 2
	}
	items[at] = x
	*h = items
}

func (h *heap[T]) pop() T {
	items := *h
	top, x := items[0], items[len(items)-1]
	var none T
	items[len(items)-1] = none
	items = items[:len(items)-1]
	*h = items
	for at := 0; len(items) > 0; {
		child := 2*at + 1
		if child+1 < len(items) && items[child+1].Before(items[child]) {
			child++
		}
		if child >= len(items) || !items[child].Before(x) {
			items[at] = x
			break
		}
		items[at] = items[child]
		at = child
	}
	return top
}

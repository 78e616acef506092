package taskprocessor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"imagetasks/pkg/app"
	"imagetasks/pkg/app/picturestore"
	"imagetasks/pkg/inventory"
	"imagetasks/pkg/lang"
	"imagetasks/pkg/picture"
	"imagetasks/pkg/settings"
	"imagetasks/pkg/store"
)

func movePicturesCommand(a program) *cli.Command {
	return &cli.Command{
		Name: "move", Usage: "copy the pictures to another store and give the tasks their new URLs; may be interrupted and repeated", Action: a.movePictures,
		Description: "Processors may work meanwhile. Then set IMAGE_STORE to the new store; see docs/storage.md for the order of the steps.\n" +
			"What is copied is compared by checksum. Rows of the application's own tables are not changed.",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "to", Usage: "`STORE` as in IMAGE_STORE: a directory or s3://bucket/prefix?endpoint=URL&region=NAME; default: IMAGE_STORE"},
			&cli.StringFlag{Name: "from", Usage: "`STORE` as in IMAGE_STORE; default: IMAGE_STORE"},
			&cli.StringFlag{Name: "base-url", Usage: "`URL` or template of the pictures in the new store, as in IMAGE_BASE_URL; default: IMAGE_BASE_URL if the new store is IMAGE_STORE or a directory, else the bucket's at its endpoint"},
			&cli.BoolFlag{Name: "delete-source", Usage: "delete each picture from the old store when its copy was verified, unless its old URL may be in use"},
			&cli.BoolFlag{Name: "plan", Usage: "only count what would be copied"},
			app.JSONFlag()}, app.WorkerFlags()...),
	}
}

// movedReport is what pictures move prints.
type movedReport struct {
	From string `json:"from"`
	To   string `json:"to"`
	Plan bool   `json:"plan,omitempty"`
	inventory.Moved
}

// progressInterval is the time between two lines of progress.
const progressInterval = 5 * time.Second

func (a program) movePictures(c *cli.Context) error {
	l, err := a.Lang(c)
	if err != nil {
		return err
	}
	if c.String("to") == "" && c.String("from") == "" {
		return app.Usagef("name the new store with --to, or the old one with --from")
	}
	return a.WithStore(c, func(ctx context.Context, s settings.Settings, st *store.Store) error {
		installation, err := st.Installation(ctx)
		if err != nil {
			return err
		}
		from, to, err := a.moveEnds(ctx, c, s, installation)
		if err != nil {
			return err
		}
		m := inventory.Mover{From: from, To: to, Tasks: st, DeleteSource: c.Bool("delete-source"), Progress: a.moveProgress(l)}
		report := movedReport{From: from.Location(), To: to.Location(), Plan: c.Bool("plan")}
		if report.Plan {
			report.Moved, err = m.Plan(ctx)
		} else {
			report.Moved, err = m.Move(ctx)
		}
		if ctx.Err() != nil {
			return errors.New("interrupted; to continue, run the same command again")
		}
		if err != nil {
			return fmt.Errorf("%w; what was copied stays, and the same command continues", err)
		}
		if c.Bool("json") {
			err = a.PrintJSON(report)
		} else {
			a.printMoved(report, l)
		}
		if err == nil && !report.IsComplete() {
			err = app.ErrUnhealthy
		}
		return err
	})
}

// moveEnds opens both stores.
func (a program) moveEnds(ctx context.Context, c *cli.Context, s settings.Settings, i store.Installation) (from, to *picture.Store, err error) {
	source, target := s, s
	for _, end := range []struct {
		flag string
		s    *settings.Settings
	}{{"from", &source}, {"to", &target}} {
		if text := c.String(end.flag); text != "" {
			if end.s.ImageStore, err = settings.ParseImageStore(text); err != nil {
				return nil, nil, app.Usagef("--%s: %w", end.flag, err)
			}
		}
	}
	if source.ImageStore == target.ImageStore {
		return nil, nil, app.Usagef("both stores are %s", source.ImageStore)
	}
	switch base := c.String("base-url"); {
	case base != "":
		if target.ImageBaseURL, err = settings.ParseImageBaseURL(base); err != nil {
			return nil, nil, app.Usagef("--%s: %w", "base-url", err)
		}
	case target.ImageStore != s.ImageStore && target.ImageStore.IsBucket():
		target.ImageBaseURL = ""
	}
	if i.Copied && c.Bool("delete-source") {
		return nil, nil, errors.New("nothing may be deleted: this database is a copy or a restored backup, and the pictures may belong to another one")
	}
	from, exists, err := picturestore.Existing(ctx, source, i)
	if err != nil {
		return nil, nil, err
	}
	if !exists {
		return nil, nil, fmt.Errorf("%s has no pictures of this installation; name the store that has them with --from", from.Location())
	}
	opener, err := picturestore.New(target)
	if err != nil {
		return nil, nil, err
	}
	if c.Bool("plan") {
		to, _, err = opener.OpenExisting(ctx, i)
	} else {
		to, err = opener.Open(ctx, i)
	}
	return from, to, err
}

// moveProgress returns a function that prints how far a move is, from time to time.
func (a program) moveProgress(l lang.Lang) func(inventory.Moved) {
	next := time.Now().Add(progressInterval)
	return func(m inventory.Moved) {
		if now := time.Now(); now.After(next) {
			next = now.Add(progressInterval)
			fmt.Fprintln(a.Stderr, textMoveProgress.In(l, m.Pictures, m.Copied, m.CopiedBytes))
		}
	}
}

func (a program) printMoved(r movedReport, l lang.Lang) {
	line := func(text lang.Text, args ...any) { a.Printf("%s\n", text.In(l, args...)) }
	if r.Plan {
		line(textMovePlan, r.From, r.To, r.Pictures, r.Copied, r.CopiedBytes, r.Present)
	} else {
		line(textMoved, r.From, r.To, r.Pictures, r.Copied, r.CopiedBytes, r.Present)
		line(textMovedLinks, r.Linked)
	}
	for _, each := range []struct {
		n    int
		text lang.Text
	}{{r.Bridged, textMovedBridged}, {r.Different, textMovedDifferent}, {r.Damaged, textMovedDamaged}, {r.Deleted, textMovedDeleted}, {r.Kept, textMovedKept}} {
		if each.n > 0 {
			line(each.text, each.n)
		}
	}
}

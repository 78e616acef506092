package taskprocessor

import (
	"context"
	"slices"
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

func picturesCommand(a program) *cli.Command {
	return &cli.Command{
		Name: "pictures", Usage: "compare the picture store with the tasks, and move it",
		Action: missingSubcommand("pictures orphans"),
		Subcommands: []*cli.Command{{
			Name: "orphans", Usage: "list the pictures of this host whose task is not in the database; removes nothing", Action: a.listOrphans,
			Flags: append([]cli.Flag{
				&cli.IntFlag{Name: "limit", Usage: "list at most `N` pictures; all are counted", Value: 1000},
				app.JSONFlag()}, app.WorkerFlags()...)}, movePicturesCommand(a)},
	}
}

// orphanList is what pictures orphans prints.
type orphanList struct {
	inventory.Totals
	Files []inventory.Orphan `json:"files"`
}

func (a program) listOrphans(c *cli.Context) error {
	limit := c.Int("limit")
	if limit < 0 {
		return app.Usagef("--limit can't be negative")
	}
	l, err := a.Lang(c)
	if err != nil {
		return err
	}
	return a.WithStore(c, func(ctx context.Context, s settings.Settings, st *store.Store) error {
		list := orphanList{Files: []inventory.Orphan{}}
		list.Totals, err = inventory.Store{Open: existingPictures(s), Tasks: st}.Orphans(ctx, func(o inventory.Orphan) {
			if len(list.Files) < limit {
				list.Files = append(list.Files, o)
			}
		})
		if err != nil {
			return err
		}
		if c.Bool("json") {
			return a.PrintJSON(list)
		}
		a.printOrphans(list, l)
		return nil
	})
}

func (a program) printOrphans(list orphanList, l lang.Lang) {
	line := func(text lang.Text, args ...any) { a.Printf("%s\n", text.In(l, args...)) }
	if !list.Exists {
		line(textNoPictureStore, list.Dir)
		return
	}
	for _, o := range list.Files {
		line(textOrphan, o.File, o.TaskID, o.Run, o.Bytes, time.Since(o.ModifiedAt).Round(time.Second))
	}
	if more := list.Orphans - len(list.Files); more > 0 {
		line(textOrphansMore, more)
	}
	line(textOrphans, list.Dir, list.Pictures, list.Orphans, list.OrphanBytes)
	if list.Unidentified > 0 {
		line(textUnidentified, list.Unidentified)
	}
	if list.Others > 0 {
		line(textOtherFiles, list.Others)
	}
}

// existingPictures returns the function that opens the picture store of some settings, if there is one.
func existingPictures(s settings.Settings) func(context.Context, store.Installation) (*picture.Store, bool, error) {
	return func(ctx context.Context, i store.Installation) (*picture.Store, bool, error) {
		return picturestore.Existing(ctx, s, i)
	}
}

// openPictures opens the installation's picture store, and creates it if necessary.
func openPictures(ctx context.Context, opener *picturestore.Opener, st *store.Store) (*picture.Store, error) {
	installation, err := st.Installation(ctx)
	if err != nil {
		return nil, err
	}
	return opener.Open(ctx, installation)
}

// removeBatch is how many tasks removePictures looks up at a time.
const removeBatch = 1000

// removePictures removes the pictures of tasks, of all runs, from this host's picture store. The pictures of a database that is a copy
// may be those of the original: they are kept, and counted.
func removePictures(ctx context.Context, s settings.Settings, st *store.Store, taskIDs []string) (removed, kept int, err error) {
	installation, err := st.Installation(ctx)
	if err != nil {
		return 0, 0, err
	}
	pictures, exists, err := picturestore.Existing(ctx, s, installation)
	if err != nil || !exists {
		return 0, 0, err
	}
	for ids := range slices.Chunk(taskIDs, removeBatch) {
		tasks, err := st.PictureTasks(ctx, ids, 0)
		if err == nil && !installation.Copied {
			err = pictures.RemoveRejected(ids)
		}
		if err != nil {
			return removed, kept, err
		}
		for _, t := range tasks {
			if installation.Copied {
				names, err := pictures.Files(ctx, t.TaskID, t.Run)
				kept += len(names)
				if err != nil {
					return removed, kept, err
				}
				continue
			}
			n, err := pictures.RemoveRuns(ctx, t.TaskID, t.Run)
			removed += n
			if err != nil {
				return removed, kept, err
			}
		}
	}
	return removed, kept, nil
}
